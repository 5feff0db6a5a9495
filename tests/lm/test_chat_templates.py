"""Chat templates: rendered as transformers does, and the form of an answer that they define."""

import json

import pytest

from flaxae.errors import ConfigError
from flaxae.lm.chat import ChatTokenizer, Turn, open_tokenizer
from tests.models.causal_lm.tiny import tokenizer

LLAMA3 = (
    "{{- bos_token }}{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}"
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}{%- endif %}"
    "{%- if not tools is defined %}{%- set tools = none %}{%- endif %}"
    "{%- if tools is not none %}{{- 'Tools: ' }}{%- for t in tools %}{{- t | tojson(indent=4) }}"
    "{{- '\n\n' }}{%- endfor %}{%- endif %}{{- date_string }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' }}"
    "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% elif m['role'] == 'assistant' %}"
    "{{ ' ' + m['content'] + ' ' + eos_token }}{% else %}"
    "{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}"
)
TEMPLATES = {
    "llama 3": LLAMA3,
    "chatml": CHATML,
    "llama 2": LLAMA2,
    "tools and documents are none": "{{ tools is none }} {{ documents is none }} {{ tools }}",
    "undefined": "{{ thinking is defined }}{{ thinking }}{{ enable_thinking | default(true) }}",
    "tokens": "{{ bos_token }}{{ pad_token }}{{ unk_token is defined }}{{ image_token }}{{ a_b }}",
    "tojson": "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}"
    "{{ {'b': 1, 'a': '<é>'} | tojson(sort_keys=true, separators=(',', ':'), ensure_ascii=true) }}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% endfor %}",
    "loop controls": "{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}"
    "{{ m.content }}{% endfor %}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% endfor %}{{ ns.n }}{{ dict(a=1) }}",
    "whitespace": "  {% for m in messages %}\n  {{ m.role }}\n  {% endfor %}\n",
    "reasoning": "{{ messages[1].reasoning_content }}{{ messages[1].thinking }}",
    "null": "{{ messages[1].name is defined }}{{ messages[1].tool_calls is defined }}",
    "macro": "{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(messages[0]['content']) }}",
    "prompt": "{{ add_generation_prompt }}{{ messages[-1]['content'].split('a') | join('-') }}",
    "date": "{{ strftime_now('%Y') | length }}",
    "refused": "{{ raise_exception('never') }}",
    "wrong type": "{{ messages[0]['content'] + 1 }}",
    "unsafe": "{{ ''.__class__.__mro__ }}",
    "private": "{% set ns = namespace() %}{% set ns._x = 1 %}{{ ns._x }}",
    "changes": "{{ messages.append(1) }}",
    "syntax": "{% if %}",
}
MESSAGES = [
    {"role": "user", "content": "what <is> é?", "name": None},
    {"role": "assistant", "content": "a banana", "reasoning": "hm", "tool_calls": None},
]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"<": "é"}}}
TOKENS = {
    "bos_token": {"content": "<s>", "__type": "AddedToken"},
    "eos_token": "</s>",
    "pad_token": "<pad>",
    "mask_token": None,
    "image_token": "<x>",
    "extra_special_tokens": {"a_b": "</s>"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer().save(folder)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"} | TOKENS
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def both(folder):
    """Return our tokenizer and transformers', of the same files."""
    from transformers import PreTrainedTokenizerFast

    return open_tokenizer(folder), PreTrainedTokenizerFast.from_pretrained(folder)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_rendered_as_in_transformers(both, name):
    ours, theirs = both
    ours.template = template = TEMPLATES[name]
    options = [{}, {"tools": [TOOL]}, {"documents": [{"title": "a", "text": "b"}]}]
    options += [{"thinking": True}, {"enable_thinking": False, "bos_token": "B"}, {"tools": []}]
    for option in options:
        for answer in (True, False):
            try:
                want = theirs.apply_chat_template(
                    MESSAGES,
                    chat_template=template,
                    tokenize=False,
                    add_generation_prompt=answer,
                    **option,
                )
            except Exception as error:
                with pytest.raises(ConfigError, match="rejects the messages") as raised:
                    ours.chat(MESSAGES, answer=answer, **option)
                assert str(error) in str(raised.value)
            else:
                assert ours.chat(MESSAGES, answer=answer, **option) == want


def test_tokens_without_a_value_are_undefined():
    plain = tokenizer()
    plain.template = "{{ bos_token is defined }}{{ pad_token is defined }}"
    assert plain.chat(MESSAGES) == "TrueFalse"
    bare = ChatTokenizer(plain._inner, template=plain.template)
    assert bare.chat(MESSAGES) == "FalseFalse"
    with pytest.raises(ConfigError, match="at least one message"):
        bare.chat([])


def test_templates_by_name_and_tokens_of_older_files(folder, tmp_path):
    (tmp_path / "tokenizer.json").write_text((folder / "tokenizer.json").read_text())

    def opened(**settings):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        return open_tokenizer(tmp_path)

    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    both = opened(chat_template=named)
    assert (both.chat(MESSAGES), both.chat(MESSAGES, tools=[TOOL])) == ("plain", "tools")
    both.save(tmp_path / "saved")
    again = open_tokenizer(tmp_path / "saved")
    assert (again.chat(MESSAGES), again.chat(MESSAGES, tools=[TOOL])) == ("plain", "tools")
    assert opened(chat_template={"default": "x"}).chat(MESSAGES) == "x"
    with pytest.raises(ConfigError, match="its chat templates are rag, tool_use, and none is the"):
        opened(chat_template=[{"name": "rag", "template": "x"}, named[1]])
    (tmp_path / "special_tokens_map.json").write_text('{"bos_token": {"content": "</s>"}}')
    assert opened(bos_token="<s>").bos == "</s>"
    assert opened(bos_token="<s>", added_tokens_decoder={}).bos == "<s>"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("tokenizer_config.json", '{"chat_template": 3}', "chat_template=3 is an integer"),
        ("tokenizer_config.json", '{"chat_template": [1]}', r"chat_template\[0\]=1 is an integer"),
        ("tokenizer_config.json", '{"chat_template": [{"name": 1}]}', "name=1 is an integer"),
        ("tokenizer_config.json", '{"bos_token": 1}', "bos_token=1 is an integer, not a string"),
        ("tokenizer_config.json", '{"eos_token": {"content": 1}}', "content of eos_token=1 is an"),
        ("tokenizer_config.json", '{"extra_special_tokens": {"x": []}}', r"x=\[\] is a list"),
        ("tokenizer_config.json", "[]", "not a JSON object, but a list"),
        ("special_tokens_map.json", "{", "not JSON"),
        ("chat_template.jinja", "\xff", "not UTF-8 text"),
    ],
)
def test_a_wrong_type_in_the_settings_is_named_with_its_file(folder, tmp_path, file, text, message):
    (tmp_path / "tokenizer.json").write_text((folder / "tokenizer.json").read_text())
    (tmp_path / file).write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=f"{file}: .*{message}"):
        open_tokenizer(tmp_path)


def special(template):
    """Return the tokenizer with further special tokens, ids 259 to 264."""
    made = tokenizer()
    names = ("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    made._inner.add_special_tokens(list(names))
    return ChatTokenizer(made._inner, bos="<s>", eos="</s>", template=template)


@pytest.mark.parametrize(
    ("template", "ends", "turn"),
    [
        ("", (2, 263), ("", "", "</s>")),
        (LLAMA3, (2, 262, 263), ("", "", "<|eot_id|>")),
        (LLAMA3, (2,), ("", "", "<|eot_id|>")),  # the model's files do not list it
        (CHATML, (2, 260), ("", "", "<|im_end|>")),
        (LLAMA2, (2,), (" ", " ", "</s>")),
        ("{{ messages[-1].content }}\n", (2, 263), ("", "", "</s>")),  # no token ends a turn
        ("{{ messages[-1].content }}<|im_end|>\n</s>", (2,), ("", "<|im_end|>\n", "</s>")),
        (
            "{% if messages | length > 1 %}{{ raise_exception('one') }}{% endif %}",
            (260, 2),
            ("", "", "<|im_end|>"),
        ),
    ],
)
def test_the_form_of_an_answer_is_that_of_the_template(template, ends, turn):
    made = special(template)
    found = made.turn(ends)
    assert found == Turn(turn[0], turn[1], found.end) and made.token(found.end) == turn[2]
