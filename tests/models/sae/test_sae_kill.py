"""A training of a dictionary that is killed and resumed equals one without interruption."""

import signal

import pytest

from tests.helpers import arrays_of, assert_same, log_of, start
from tests.models.sae.killed import CASES


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_sigkill_then_resume_is_bit_exact_with_the_stream(case, folder, tmp_path):
    """A block of the stream has three batches: steps 2 and 4 are inside of one."""

    def train(workdir, *step):
        args = [str(folder), case, str(tmp_path / workdir), *step]
        return start(["-m", "tests.models.sae.killed", *args])

    whole = train("whole")
    for step in ("2", "4"):
        assert train("killed", step).wait(300) == -signal.SIGKILL
    last = train("killed")
    assert last.wait(300) == 0, last.communicate()
    assert whole.wait(300) == 0, whole.communicate()
    assert_same(arrays_of(tmp_path / "killed"), arrays_of(tmp_path / "whole"))
    rows = log_of(tmp_path / "killed")
    assert rows == log_of(tmp_path / "whole") and [row["step"] for row in rows][:6] == [
        *range(1, 7)
    ]
