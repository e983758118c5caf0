import msgspec

from wattmill.app.declared.settings import Ledger
from wattmill.app.home import Home
from wattmill.app.running.lag import Backlog, Lag
from wattmill.vocab.refusal import Refusal


def told(home: Home, records: int) -> None:
    (home.run / "ledger.json").write_bytes(msgspec.json.encode(Lag(at_us=records, behind_records=records)))


def test_a_silent_ledger_is_not_taken_for_one_that_keeps_up(tmp_path):
    home = Home(tmp_path)
    home.create()
    written = 0
    backlog = Backlog(home, Ledger(alarm_backlog_records=5, refuse_backlog_records=10), lambda: written)
    told(home, 2)
    backlog.look()
    assert backlog.admit() is None
    written = 9  # the ledger process says nothing more
    refusal = backlog.admit()
    assert isinstance(refusal, Refusal)
    assert refusal.code == "ledger_backlog"
    assert refusal.retry_after_s


def test_serving_goes_on_once_the_ledger_has_caught_up(tmp_path):
    home = Home(tmp_path)
    home.create()
    written = 50
    backlog = Backlog(home, Ledger(alarm_backlog_records=5, refuse_backlog_records=10), lambda: written)
    assert backlog.admit() is not None
    told(home, 0)
    backlog.look()
    assert backlog.admit() is None
