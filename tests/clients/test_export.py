"""Costs as other programs read them: FOCUS by its own validator, OpenAI's organization routes by its own client."""

import csv
import datetime
import decimal
import io
import os
import pathlib
import re
import subprocess
import time

import openai

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FOCUS = os.environ.get("GALERNE_TEST_FOCUS_PYTHON", str(ROOT / "target" / "venv-focus" / "bin" / "python"))
# It holds an empty InvoiceId against every row, although the rule is about charges on an invoice; there are no invoices yet.
KNOWN = {"InvoiceId-C-005-C"}


def used(site):
    """Chats, one of them twice so that some of its prompt is cached, settled in the ledger."""
    client = site.openai()
    before = total(site)["requests"]
    for words in ("one", "two", "one"):
        client.chat.completions.create(
            model=site.endpoint, max_tokens=5, messages=[{"role": "user", "content": f"Say {words}. " + "Slowly. " * 40}]
        )
    deadline = time.monotonic() + 60
    while total(site)["requests"] < before + 3:
        assert time.monotonic() < deadline, "the usage never reaches the ledger"
        time.sleep(0.1)


def total(site):
    return site.api("GET", "/costs?tenant=*")["total"]


def report(site, path):
    """The rows of a report, and what the bill says at the same moment: other tests' last requests may still be on their way."""
    deadline = time.monotonic() + 60
    while True:
        before = total(site)
        made = site.cli("cost", "export", "--format", "focus", "--since", "2d", "--to", str(path))
        assert made.returncode == 0, made.stderr
        if total(site) == before:
            return list(csv.DictReader(io.StringIO(path.read_text()))), before["quantities"]
        assert time.monotonic() < deadline, "the bill never rests"


def failures(path):
    """The rules that the validator says fail, and how many it applied."""
    ran = subprocess.run(
        [FOCUS, str(HERE / "validate_focus.py"), str(path)], capture_output=True, text=True, timeout=300, check=False
    )
    told = ran.stdout + ran.stderr
    counts = re.search(r"Total: (\d+) \| Pass: (\d+) \| Fail: (\d+)", told)
    assert counts, f"no verdict: {told[-3000:]}"
    failed = set(re.findall(r"❌ (\S+): FAIL", told))
    assert len(failed) == int(counts[3]), told[-3000:]
    return failed, int(counts[2])


def test_a_focus_report_passes_its_validator_and_adds_up_to_the_bill(site, tmp_path):
    used(site)
    path = tmp_path / "costs.csv"
    rows, costs = report(site, path)
    failed, passed = failures(path)
    assert failed == KNOWN, failed
    assert passed > 200, f"only {passed} rules were applied"
    billed = sum(decimal.Decimal(row["BilledCost"]) for row in rows)
    assert billed == decimal.Decimal(costs["micros"]) / 10**6 + decimal.Decimal(costs["picos"]) / 10**12
    tokens = sum(decimal.Decimal(row["ConsumedQuantity"]) for row in rows)
    assert tokens == costs["prompt_tokens"] + costs["cached_tokens"] + costs["completion_tokens"]
    for row in rows:
        product = decimal.Decimal(row["ListUnitPrice"]) * decimal.Decimal(row["PricingQuantity"])
        assert product == decimal.Decimal(row["ListCost"]), row
    joules = sum(decimal.Decimal(row["x_EnergyJoules"] or 0) for row in rows)
    assert joules * 1000 == costs["millijoules"]
    # Servers of other tests state no country.
    assert {"FR"} <= {row["x_Residency"] for row in rows} <= {"FR", ""}
    assert {row["BillingCurrency"] for row in rows} == {"EUR"}


def test_the_validator_sees_what_is_wrong(site, tmp_path):
    used(site)
    path = tmp_path / "costs.csv"
    rows, _ = report(site, path)
    broken = {
        "ChargePeriodStart-C-002-M": {"ChargePeriodStart": "yesterday"},
        "ChargeCategory-C-003-M": {"ChargeCategory": "Usages"},
        "BillingCurrency-C-004-M": {"BillingCurrency": ""},
    }
    for rule, change in broken.items():
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows({**row, **change} for row in rows)
        failed, _ = failures(path)
        assert rule in failed, (rule, failed)


def test_openais_client_reads_usage_and_costs_as_of_an_organization(site):
    used(site)
    admin = openai.OpenAI(
        base_url=site.url + "/v1", admin_api_key=site.api_key, api_key=site.api_key, max_retries=0, timeout=60
    )
    usage = admin.admin.organization.usage
    start = int((datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)).timestamp())
    for width in ("1d", "1h"):
        page = usage.completions(start_time=start, bucket_width=width, group_by=["model", "project_id"], limit=31)
        results = [result for bucket in page.data for result in bucket.results]
        assert results and {result.object for result in results} == {"organization.usage.completions.result"}
        assert site.endpoint in {result.model for result in results}
        assert all(result.project_id.startswith("project_") for result in results)
        assert sum(result.output_tokens for result in results) > 0
    embeddings = usage.embeddings(start_time=start)
    assert embeddings.object == "page" and not embeddings.has_more
    costs = usage.costs(start_time=start, group_by=["line_item"])
    items = {result.line_item: result for bucket in costs.data for result in bucket.results}
    assert f"{site.endpoint}, output_tokens" in items, items
    output = items[f"{site.endpoint}, output_tokens"]
    assert (output.amount.currency, output.quantity_unit) == ("eur", "tokens") and output.amount.value > 0
