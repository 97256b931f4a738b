"""What an operator's own tools see: metrics, the command line, the ledger after all the other files' traffic."""

import json
import subprocess


def test_metrics_pass_promtool(site):
    text = site.http.get("/metrics").text
    assert "galerne_" in text
    check = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stdout + check.stderr
    assert site.api_key not in text


def test_the_first_key_is_shown_once_and_never_logged(site):
    site.log.flush()
    output = (site.folder / "up.log").read_text()
    assert output.count(site.api_key) <= 1
    logs = [path for path in (site.folder / "data" / "logs").rglob("*") if path.is_file()]
    assert all(site.api_key not in path.read_text(errors="replace") for path in logs)


def test_the_command_line_reads_what_the_clients_spent(site, client, question):
    client.chat.completions.create(model=site.endpoint, messages=question, max_tokens=3)
    whoami = site.cli("whoami", "--output", "json")
    assert whoami.returncode == 0, whoami.stderr
    assert json.loads(whoami.stdout)["principal"]["id"].startswith("principal_")
    cost = site.cli("cost", "--output", "json")
    assert cost.returncode == 0, cost.stderr
    assert json.loads(cost.stdout)


def test_the_ledger_closes_after_everything(site):
    check = site.cli("ledger", "check")
    assert check.returncode == 0, check.stdout + check.stderr


def test_a_wrong_address_is_an_error_with_a_hint_and_an_exit_code(site):
    wrong = site.cli("whoami", "--url", "http://127.0.0.1:9")
    assert wrong.returncode == 7
    assert wrong.stdout == ""
    assert "hint:" in wrong.stderr
