"""Reading a declaration: what is right is kept whole, what is wrong is named with its way out."""

# ruff: noqa: E501  (messages stand here whole, as a person reads them)

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest
from inline_snapshot import snapshot

from wattmill.app.declared.declaration import EXAMPLE, Loaded, decode, example_text, load, restored, stored
from wattmill.app.declared.plan import places
from wattmill.app.declared.pool_settings import EmbeddedPool, HttpPool
from wattmill.app.declared.problem import Problem
from wattmill.app.declared.settings import Settings
from wattmill.app.declared.settings_errors import line_of

KEY = {"OPENAI_API_KEY": "sk-not-a-real-one"}


def read(text: str, env: dict[str, str] | None = None) -> Loaded | list[Problem]:
    return decode(text, file="wattmill.toml", folder=Path("/srv/factory"), env=env or {})


def changed(old: str, new: str, *, count: int = 1) -> str:
    """Return the example with one thing changed; the thing must be there."""
    text = example_text()
    assert old in text, old
    return text.replace(old, new, count)


def only_problem(text: str, env: dict[str, str] | None = None) -> str:
    found = read(text, env)
    assert isinstance(found, list), "was accepted"
    assert len(found) == 1, [str(p) for p in found]
    return told(found[0])


def told(problem: Problem) -> str:
    """Return the line that a person reads, with N for the number of the line: that has tests of its own."""
    return re.sub(r"^wattmill\.toml:\d+:", "wattmill.toml:N:", str(problem))


def accepted(text: str, env: dict[str, str] | None = None) -> Loaded:
    found = read(text, env)
    assert isinstance(found, Loaded), [str(p) for p in found]
    return found


# --- the example ------------------------------------------------------------------------------------------


def test_the_built_in_example_is_right_with_and_without_a_provider_key():
    assert accepted(example_text()).warnings == ()
    assert accepted(example_text(), KEY).warnings == ()


def test_the_example_runs_where_there_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    loaded = load(None, {})
    assert isinstance(loaded, Loaded)
    assert loaded.file == EXAMPLE
    assert list(loaded.settings.pools) == ["edge", "local", "cloud"]


def test_a_file_in_the_working_folder_comes_before_the_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("wattmill.toml").write_text(changed('name = "first light"', 'name = "mine"'), encoding="utf-8")
    loaded = load(None, {})
    assert isinstance(loaded, Loaded)
    assert loaded.settings.factory.name == "mine"


def test_without_a_key_the_stand_in_answers_to_its_own_model_name():
    cloud = places(accepted(example_text()).settings, {})["cloud"]
    assert (cloud.stand_in, cloud.embedded, list(cloud.models)) == (True, True, ["smollm2-135m"])


def test_with_a_key_the_provider_answers_to_its_own_model_name_only():
    cloud = places(accepted(example_text(), KEY).settings, KEY)["cloud"]
    assert (cloud.stand_in, cloud.embedded, list(cloud.models)) == (False, False, ["gpt-4o-mini"])


def test_a_key_of_blanks_is_no_key():
    assert places(accepted(example_text()).settings, {"OPENAI_API_KEY": "  "})["cloud"].stand_in


def test_private_data_stays_in_the_house_in_the_example():
    pools = accepted(example_text()).settings.pools
    assert {name: pool.privacy for name, pool in pools.items()} == {
        "edge": "private",
        "local": "private",
        "cloud": "internal",
    }


# --- faults: the whole message, as a person reads it --------------------------------------------------------


def test_an_unknown_key_names_the_nearest_known_one():
    assert only_problem(changed("workers = 1", "wrokers = 1")) == snapshot(
        "wattmill.toml:N: error: gateway.wrokers: unknown key. Did you mean `workers`?"
    )


def test_an_unknown_key_far_from_all_lists_what_is_known():
    assert only_problem(changed("[routing]", "[routing]\nxyzzy = 3")) == snapshot(
        "wattmill.toml:N: error: routing.xyzzy: unknown key. Known here: `policy`, `money`, `usd_per_s`, `expected_output_tok`, `bound_tok_per_tok`, `default_output_tok`, `usd_per_kg_co2`, `energy`, `usd_per_quality`, `usd_per_tok_per_s`, `others`, `refusal_usd`, `explore`, `seed`, `prefix_affinity`, `cascade`."
    )


def test_an_unknown_table_is_an_error_too():
    assert only_problem(example_text() + "\n[gatewai]\nport = 1\n") == snapshot(
        "wattmill.toml:N: error: gatewai: unknown key. Did you mean `gateway`?"
    )


def test_money_that_is_a_number_says_how_to_write_it():
    assert only_problem(changed('hourly_usd = "0.020"', "hourly_usd = 0.020")) == snapshot(
        'wattmill.toml:N: error: pools.local.cost.hourly_usd = 0.02: must be text in quotes. Money is text, so that it stays exact: write hourly_usd = "0.02".'
    )


def test_money_below_zero_is_refused():
    assert only_problem(changed('cap_usd = "2"', 'cap_usd = "-2"')) == snapshot(
        'wattmill.toml:N: error: tenants.demo.teams.first-light.cap_usd = "-2": must be dollars, 0 or more, as digits in quotes, nine at most after the point. Write for example "0.15".'
    )


def test_money_finer_than_the_books_is_refused_and_not_rounded_to_nothing():
    assert only_problem(
        changed('output_usd_per_mtok = "0.72"', 'output_usd_per_mtok = "0.0000000004"')
    ) == snapshot(
        'wattmill.toml:N: error: prices.standard.gpt-4o-mini.output_usd_per_mtok = "0.0000000004": must be dollars, 0 or more, as digits in quotes, nine at most after the point. Write for example "0.15".'
    )


def test_money_that_may_be_left_out_says_how_to_write_it_too():
    assert only_problem(changed('cap_usd = "2"', "cap_usd = 2")) == snapshot(
        'wattmill.toml:N: error: tenants.demo.teams.first-light.cap_usd = 2: must be text in quotes. Money is text, so that it stays exact: write cap_usd = "2".'
    )


def test_a_word_out_of_a_closed_list_names_the_list():
    assert only_problem(changed('privacy = "internal"', 'privacy = "secret"')) == snapshot(
        'wattmill.toml:N: error: pools.cloud.privacy = "secret": must be "public" or "internal" or "private". `privacy` means: The most sensitive class of data that it may see; `private` may see all.'
    )


def test_an_address_without_its_scheme_is_told_so_and_not_repeated():
    assert only_problem(changed('"https://api.openai.com/v1"', '"key@api.openai.com"')) == snapshot(
        "wattmill.toml:N: error: pools.cloud.base_url: must be an address that begins with http:// or https://. `base_url` means: Address up to and including `/v1`; never with a key or a password in it."
    )


def test_a_value_out_of_range_names_the_range():
    assert only_problem(changed("port = 8686", "port = 868600")) == snapshot(
        "wattmill.toml:N: error: gateway.port = 868600: must be a whole number <= 65535. `port` means: Port; 0 lets the kernel choose."
    )


def test_files_of_meters_are_meant_from_the_folder_of_the_declaration():
    told = read(
        example_text()
        + '\n[meters.board]\nsource = "replay"\nat = "board.csv"\nca_file = "bmc.pem"\n'
        + '[meters.bmc]\nsource = "redfish"\nat = "https://bmc"\n'
    )
    assert isinstance(told, Loaded)
    board, bmc = told.settings.meters["board"], told.settings.meters["bmc"]
    assert (board.at, board.ca_file) == ("/srv/factory/board.csv", "/srv/factory/bmc.pem")
    assert (bmc.at, bmc.ca_file) == ("https://bmc", None)


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_a_number_that_is_none_is_refused(number: str):
    said = only_problem(changed("max_w = 65.0", f"max_w = {number}"))
    assert f"host.max_w = {number}: must be a finite number" in said


def test_a_wrong_type_names_the_right_one():
    assert only_problem(changed("slots = 2", 'slots = "four"')) == snapshot(
        'wattmill.toml:N: error: pools.edge.slots = "four": must be a whole number. `slots` means: Requests that it works on at once.'
    )


def test_a_missing_value_says_what_it_is():
    assert only_problem(changed('weights = "smollm2-135m-instruct.q8_0-from-q4_1"\n', "")) == snapshot(
        "wattmill.toml:N: error: pools.local: `weights` is missing. Write `weights = …`, which means: Name of installed weights, or path of a GGUF file."
    )


def test_an_unknown_kind_of_engine_names_the_kinds():
    assert only_problem(changed('engine = "openai_http"', 'engine = "openai"')) == snapshot(
        'wattmill.toml:N: error: pools.cloud.engine = "openai": must be "embedded" or "openai_http". Did you mean `openai_http`?'
    )


def test_a_forbidden_name_is_refused():
    assert only_problem(changed('[tenants.demo]\ncap_usd = "5"', '[tenants."De mo"]\n')).startswith(
        "wattmill.toml"
    )


def test_an_inline_key_is_refused_as_a_leak_and_not_repeated():
    text = changed('api_key_env = "OPENAI_API_KEY"', 'api_key = "sk-live-abcdef"')
    found = read(text)
    assert isinstance(found, list)
    assert [told(p) for p in found] == snapshot(
        [
            "wattmill.toml:N: error: pools.cloud.api_key: secrets never stand in a declaration. Name an environment variable (`api_key_env`) or a file (`api_key_file`) that holds it; treat what stood here as leaked."
        ]
    )
    assert "sk-live-abcdef" not in "".join(map(str, found))


def test_an_authorization_header_is_refused_and_not_repeated():
    text = changed(
        "[pools.cloud.speed]",
        '[pools.cloud.headers]\nAuthorization = "Bearer sk-live"\n\n[pools.cloud.speed]',
    )
    problem = only_problem(text)
    assert problem == snapshot(
        "wattmill.toml:N: error: pools.cloud.headers.Authorization: secrets never stand in a declaration. Name an environment variable (`api_key_env`) or a file (`api_key_file`)."
    )
    assert "sk-live" not in problem


def test_a_password_in_an_address_is_refused():
    problem = only_problem(changed('"https://api.openai.com/v1"', '"https://user:hunter2@api.openai.com/v1"'))
    assert "base_url" in problem
    assert "hunter2" not in problem


def test_a_key_where_the_name_of_a_variable_belongs_is_refused_and_not_repeated():
    problem = only_problem(changed('api_key_env = "OPENAI_API_KEY"', 'api_key_env = "sk-live-abcdef"'))
    assert problem == snapshot(
        "wattmill.toml:N: error: pools.cloud.api_key_env: must be the name of an environment variable in capitals, never the key itself. `api_key_env` means: Environment variable that holds the key."
    )
    assert "sk-live" not in problem


def test_text_that_is_no_toml_names_the_line():
    assert only_problem("[gateway]\nport = = 3\n") == snapshot(
        "wattmill.toml:N: error: not valid TOML: invalid value. Text is quoted, tables are [in.brackets], each key stands once per table."
    )


def test_a_declaration_without_pools_is_refused():
    assert only_problem("") == snapshot(
        "wattmill.toml: error: `pools` is missing. Write `pools = …`, which means: Places that serve models, in the order of preference."
    )


def test_a_file_that_is_not_there_says_how_to_make_one(tmp_path: Path):
    found = load(tmp_path / "none.toml", {})
    assert isinstance(found, list)
    assert "wattmill init" in str(found[0])


def test_a_file_that_is_not_text_is_refused(tmp_path: Path):
    (tmp_path / "x.toml").write_bytes(b"name = '\xff\xfe'")
    found = load(tmp_path / "x.toml", {})
    assert isinstance(found, list)
    assert "UTF-8" in str(found[0])


def test_all_faults_are_told_at_once_in_the_order_of_the_file():
    text = (
        example_text()
        .replace("workers = 1", "wrokers = 1")
        .replace("utilization = 0.5", "utilization = 5")
        .replace("seed = 1", "seed = -1")
    )
    found = read(text)
    assert isinstance(found, list)
    assert [p.key for p in found] == [
        "gateway.wrokers",
        "pools.edge.cost.utilization",
        "pools.local.cost.utilization",
        "load.seed",
    ]
    lines = [p.line for p in found]
    assert lines == sorted(lines, key=lambda n: n or 0)
    for problem in found:
        assert problem.line is not None
        assert problem.key.rsplit(".", 1)[1] in text.splitlines()[problem.line - 1]


# --- between the parts --------------------------------------------------------------------------------------


def test_a_pool_cannot_serve_a_model_that_is_not_declared():
    text = changed(
        'weights = "smollm2-135m-instruct.q4_0-from-q4_1"\nmodels = ["smollm2-135m"]',
        'weights = "smollm2-135m-instruct.q4_0-from-q4_1"\nmodels = ["smolm2"]',
    )
    assert only_problem(text) == snapshot(
        "wattmill.toml:N: error: pools.edge.models: no model 'smolm2' (known: smollm2-135m, gpt-4o-mini). Did you mean 'smollm2-135m'? Declare it under [models.smolm2]."
    )


def test_weights_must_be_known_or_a_file():
    assert only_problem(
        changed('"smollm2-135m-instruct.q8_0-from-q4_1"', '"smollm2-135m-instruct.q8_0"')
    ) == snapshot(
        "wattmill.toml:N: error: pools.local.weights: no weights 'smollm2-135m-instruct.q8_0' (known: smollm2-135m-instruct.q4_1, smollm2-135m-instruct.q8_0-from-q4_1, smollm2-135m-instruct.q4_0-from-q4_1). Did you mean 'smollm2-135m-instruct.q4_1'? Name one of these, or the path of a GGUF file."
    )
    assert "no such readable file" in only_problem(
        changed('"smollm2-135m-instruct.q8_0-from-q4_1"', '"none.gguf"')
    )


def test_a_price_book_must_be_there():
    assert only_problem(changed('book = "standard"', 'book = "standart"')) == snapshot(
        "wattmill.toml:N: error: pools.cloud.charge.book: no price book 'standart' (known: standard). Did you mean 'standard'? Declare [prices.standart]."
    )


def test_a_price_book_must_price_every_model_that_the_pool_serves():
    text = example_text()
    begin, end = text.index("[prices.standard.smollm2-135m]"), text.index("# --- who pays")
    assert only_problem(text[:begin] + text[end:]) == snapshot(
        "wattmill.toml:N: error: pools.cloud.charge.book = \"standard\": book 'standard' has no rates for model 'smollm2-135m', which this pool serves. Declare [prices.standard.smollm2-135m]: an unknown price is never zero."
    )


def test_a_list_price_must_be_in_the_data():
    text = changed(
        'provider = "openai"\nmodel = "gpt-4o-mini"', 'provider = "openai"\nmodel = "gpt-9-imaginary"'
    )
    problem = only_problem(text)
    assert "pools.cloud.cost.model" in problem
    assert 'rule = "rates"' in problem


def test_a_provider_must_be_in_the_data():
    assert "provider" in only_problem(changed('provider = "openai"', 'provider = "opnai"'))


def test_both_listeners_need_ports_of_their_own():
    assert only_problem(changed("port = 8687", "port = 8686")) == snapshot(
        "wattmill.toml:N: error: admin.port = 8686: is also the port of the gateway (8686). Give the admin listener a port of its own, or 0 for any free one."
    )


def test_two_ports_left_to_the_kernel_do_not_collide():
    accepted(changed("port = 8687", "port = 0").replace("port = 8686", "port = 0"))


def test_tls_needs_both_files(tmp_path: Path):
    cert = tmp_path / "cert.pem"
    cert.write_text("-", encoding="utf-8")
    text = changed("[gateway]", f'[gateway]\ntls = {{cert_file = "{cert}"}}')
    assert "`key_file` is missing" in only_problem(text)


def test_a_tls_file_that_is_not_there_is_named():
    text = changed("[gateway]", '[gateway]\ntls = {cert_file = "cert.pem", key_file = "key.pem"}')
    found = read(text)
    assert isinstance(found, list)
    assert [p.value for p in found] == ['"/srv/factory/cert.pem"', '"/srv/factory/key.pem"']


def test_listening_beyond_this_machine_without_tls_warns_and_runs():
    loaded = accepted(changed('host = "127.0.0.1"', 'host = "0.0.0.0"'))
    assert [told(w) for w in loaded.warnings] == snapshot(
        [
            'wattmill.toml:N: warning: gateway.host = "0.0.0.0": listens beyond this machine without TLS, so keys cross the network in clear text. Set `cert_file` and `key_file` under [gateway.tls], or put a TLS proxy in front.'
        ]
    )


def test_a_pool_without_stand_in_needs_its_key_and_says_which():
    text = example_text()
    begin, end = text.index("[pools.cloud.stand_in]"), text.index("# --- what tenants pay")
    without = text[:begin] + text[end:]
    accepted(without, KEY)
    assert only_problem(without) == snapshot(
        'wattmill.toml:N: error: pools.cloud.api_key_env = "OPENAI_API_KEY": environment variable OPENAI_API_KEY is not set, and the pool declares no stand-in. Set it before `wattmill up`, remove the pool, or declare [pools.cloud.stand_in].'
    )


def test_a_key_file_counts_as_the_key(tmp_path: Path):
    secret = tmp_path / "provider.key"
    text = changed('api_key_env = "OPENAI_API_KEY"', f'api_key_file = "{secret}"')
    assert places(accepted(text).settings, {})["cloud"].stand_in
    secret.write_text("sk-from-a-file\n", encoding="utf-8")
    assert not places(accepted(text).settings, {})["cloud"].stand_in


def test_a_pool_cannot_promise_more_context_than_its_model_has():
    assert "8192" in only_problem(changed("context_tok = 4096", "context_tok = 9000"))


def test_a_team_that_is_not_declared_is_named_with_the_nearest():
    assert only_problem(changed('team = "demo/load"', 'team = "demo/laod"')) == snapshot(
        "wattmill.toml:N: error: load.team: no team 'demo/laod' (known: demo/first-light, demo/load). Did you mean 'demo/load'? Declare [tenants.demo.teams.laod]."
    )


def test_a_cap_beyond_what_the_books_can_hold_is_refused():
    assert "tenants.demo.cap_usd" in only_problem(changed('cap_usd = "5"', 'cap_usd = "5000000000"'))


def test_relative_paths_are_meant_from_the_folder_of_the_file(tmp_path: Path):
    (tmp_path / "mine.gguf").write_bytes(b"GGUF")
    (tmp_path / "w.toml").write_text(
        changed('"smollm2-135m-instruct.q8_0-from-q4_1"', '"mine.gguf"'), encoding="utf-8"
    )
    loaded = load(tmp_path / "w.toml", {})
    assert isinstance(loaded, Loaded), loaded
    pool = loaded.settings.pools["local"]
    assert isinstance(pool, EmbeddedPool)
    assert pool.weights == str(tmp_path / "mine.gguf")


# --- values -------------------------------------------------------------------------------------------------


def test_what_is_stored_for_the_other_processes_comes_back_equal():
    settings = accepted(example_text()).settings
    assert restored(stored(settings)) == settings


def test_settings_are_frozen():
    settings = accepted(example_text()).settings
    with pytest.raises(AttributeError):
        settings.gateway.port = 1  # type: ignore[misc]


def test_a_list_of_models_and_a_table_of_models_say_the_same():
    table = changed('models = ["gpt-4o-mini"]', 'models = {"gpt-4o-mini" = "gpt-4o-mini-2024-07-18"}')
    assert places(accepted(table, KEY).settings, KEY)["cloud"].models == {
        "gpt-4o-mini": "gpt-4o-mini-2024-07-18"
    }


def test_every_setting_of_the_example_is_a_setting():
    """The quick way and the walk that explains agree: what one accepts the other has no fault in."""
    from wattmill.app.declared.settings_errors import faults

    data = tomllib.loads(example_text())
    msgspec.convert(data, Settings)
    assert faults(data, Settings, file="x", text=example_text()) == []


def test_the_line_of_a_key_is_found_in_every_way_to_write_it():
    text = 'a.b = 1\n[t]\n"x y" = 2\n[t.u]\nk = {in = 3}\n# k2 = 1\nlong = [\n  1,\n]\nk2 = 4\n'
    assert line_of(text, ("a", "b")) == 1
    assert line_of(text, ("t", "x y")) == 3
    assert line_of(text, ("t", "u", "k", "in")) == 5
    assert line_of(text, ("t", "u", "k2")) == 10
    assert line_of(text, ("t", "u", "absent")) == 4
    assert line_of(text, ("nowhere",)) is None


def test_the_gateway_reads_settings_without_heavy_packages():
    code = (
        "import sys, wattmill.app.declared.declaration, wattmill.app.declared.plan;"
        "print([m for m in ('genai_prices','typer','rich','starlette','sqlite3','tomllib','difflib') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_http_pool_of_the_example_names_its_key_by_environment():
    pools = accepted(example_text()).settings.pools.values()
    assert [p.api_key_env for p in pools if isinstance(p, HttpPool)] == ["OPENAI_API_KEY"]
