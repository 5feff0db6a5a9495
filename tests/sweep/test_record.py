"""A run is measured once for the same config and settings."""

from types import SimpleNamespace

from flaxae.sweep import record


def test_other_settings_measure_a_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "config_hash", lambda config: config.name)
    runs, calls, rows = [("a", SimpleNamespace(name="a", seed=0))], [], []

    def measure(config, key):
        """Count the calls."""
        calls.append(key)
        return {"numbers": {"n": len(calls)}}

    for settings in ({"draws": 5}, {"draws": 5}, {"draws": 9}, {"draws": 9}):
        rows.clear()
        path = tmp_path / "rows.jsonl"
        assert record.complete(path, runs, measure, settings=settings, after=rows.extend)
        assert rows[0]["settings"] == settings
    assert calls == ["a", "a"] and rows[0]["numbers"] == {"n": 2}
