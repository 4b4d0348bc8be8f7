"""The web page in a real browser, on a real `hapa serve` with a small real model.

    cargo xtask web        installs what this needs (Chromium, requirements.txt) and runs it

Times are waited for generously and never asserted. `--screenshots DIR` keeps pictures of each view.
"""

import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import uuid
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

from servers import MODEL, REPOSITORY, Server, SlowHub, model_file

VIEWS = ["generate", "complete", "dashboard", "requests"]
BROWSERS = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
LONG_MS = 60_000

expect.set_options(timeout=LONG_MS)


class Visit:
    """A page that is watched: no console error, no exception, no request to another host."""

    def __init__(self, browser, url, refusals=(), **options):
        self.context = browser.new_context(viewport={"width": 1280, "height": 800}, **options)
        self.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=url)
        self.page = self.context.new_page()
        self.page.set_default_timeout(LONG_MS)
        self.troubles, self.host = [], urlsplit(url).netloc
        self.refusals = refusals
        self.page.on("console", self.console)
        self.page.on("pageerror", lambda error: self.troubles.append(f"exception: {error}"))
        self.page.on("request", self.request)
        self.url = url

    def console(self, message):
        # The browser itself notes each refused request; the ones that a test provokes are expected.
        expected = any(text in message.text for text in self.refusals)
        if message.type in ("error", "warning") and not expected:
            self.troubles.append(f"console: {message.text}")

    def request(self, request):
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.netloc != self.host:
            self.troubles.append(f"another host: {request.url}")

    def __enter__(self):
        self.page.goto(self.url)
        return self.page

    def __exit__(self, kind, *_):
        self.context.close()
        if kind is None:
            assert not self.troubles, self.troubles


class Tests:
    def __init__(self, browser, server, options):
        self.browser, self.server, self.options = browser, server, options

    def visit(self, *refusals, **options):
        return Visit(self.browser, self.server.url, refusals, **options)

    def question(self, text="Say hello in Python"):
        """One that no cache has seen."""
        return f"{text} ({uuid.uuid4().hex[:8]})"

    def generate(self, page, question, tokens=24):
        page.goto(page.url.partition("#")[0] + "#generate")
        page.get_by_label("Question", exact=True).fill(question)
        page.get_by_label("Max tokens").first.fill(str(tokens))
        page.keyboard.press("Control+Enter")
        expect(page.locator("#generate-status")).to_contain_text("Done in")

    # Each test is a method whose name begins with `test_`.

    def test_the_files_and_their_headers(self):
        headers, body = self.server.get("/", {"accept-encoding": "gzip"})
        policy = headers["content-security-policy"]
        for rule in ["default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"]:
            assert rule in policy, policy
        assert "unsafe" not in policy and headers["content-encoding"] == "gzip", headers
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-cache"
        with self.visit() as page:
            again = page.evaluate("fetch('/web/app.js', {headers: {'if-none-match': '%s'}}).then((r) => r.status)" % self.etag("/web/app.js"))
            assert again == 304, again
            missing = page.request.get(self.server.url + "/web/../Cargo.toml")
            assert missing.status == 404, missing.status

    def etag(self, path):
        headers, _ = self.server.get(path)
        return headers["etag"].replace('"', '\\"')

    def test_generate_stream_receipt_and_copy(self):
        with self.visit() as page:
            question = self.question("Write a Python function that adds two numbers")
            self.generate(page, question, tokens=160)
            receipt = page.locator("#generate-receipt")
            expect(receipt).to_contain_text("tokens/s")
            expect(receipt).to_contain_text("miss")
            code = page.locator("#answer-code code")
            if code.inner_text().strip():
                page.get_by_role("button", name="Copy").click()
                expect(page.locator("#copy")).to_have_text("Copied")
                copied = page.evaluate("navigator.clipboard.readText()")
                assert copied.strip() == code.inner_text().strip(), copied
                assert page.locator("#answer-code [class^=hljs-]").count() > 0, "no colours"
            else:
                expect(page.locator("#answer-prose")).not_to_be_empty()

    def test_a_second_time_out_of_the_cache(self):
        with self.visit() as page:
            # Only an answer that ended by itself is kept.
            context = page.get_by_text("Code that it is about")
            context.click()
            page.locator("#context").fill("x = 1")
            question = self.question("Repeat the word yes once and nothing more")
            for _ in range(2):
                self.generate(page, question, tokens=1000)
            outcome = page.locator("#generate-receipt")
            ended = "at max tokens" not in outcome.inner_text()
            expect(outcome).to_contain_text("hit in memory" if ended else "miss")

    def test_stop_by_escape(self):
        with self.visit() as page:
            page.get_by_label("Question", exact=True).fill(self.question("Explain everything about Python"))
            page.get_by_label("Max tokens").first.fill("1500")
            page.keyboard.press("Control+Enter")
            expect(page.locator("#generate-status")).to_contain_text("tokens/s")
            page.keyboard.press("Escape")
            expect(page.locator("#generate-status")).to_have_text("Stopped")
            expect(page.locator("#generate-stop")).to_be_hidden()
            self.wait(lambda: self.engine()["requests_running"] == 0, "the generation is cancelled")

    def engine(self):
        return json.loads(self.server.get("/stats")[1])["performance_metrics"]["engine"]

    def wait(self, condition, what):
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain until {what}"
            time.sleep(0.1)

    def test_complete_at_the_cursor(self):
        # The small real model has no fill-in-the-middle tokens; a tiny random one has, and writes nonsense.
        with tempfile.TemporaryDirectory() as home:
            model = f"{home}/tiny.gguf"
            subprocess.run([self.options.tiny_model, model], check=True)
            with Server(self.options.hapa, home, "--model", model) as server:
                with Visit(self.browser, server.url) as page:
                    self.complete(page)

    def complete(self, page):
        page.get_by_role("link", name="Complete", exact=True).click()
        editor = page.locator("#editor")
        text = "def add(a, b):\n    return a\n"
        editor.fill(text)
        page.evaluate("document.getElementById('editor').setSelectionRange(27, 27)")
        editor.press("Control+Enter")
        ghost = page.locator("#editor-shadow .ghost")
        expect(ghost).to_have_count(1)
        expect(page.locator("#complete-receipt")).to_contain_text("Prompt")
        suggested = ghost.text_content()
        assert page.locator("#editor-shadow").text_content() == f"def add(a, b):\n    return a{suggested}\n\n"
        editor.press("Escape")
        expect(ghost).to_have_count(0)
        assert editor.input_value() == text, "dropping changes nothing"
        editor.press("Control+Enter")
        expect(ghost).to_have_count(1)
        editor.press("Tab")
        expect(page.locator("#complete-status")).to_have_text("Taken")
        assert editor.input_value() == f"def add(a, b):\n    return a{suggested}\n", editor.input_value()
        editor.press("Control+z")
        assert editor.input_value() == text, "taking can be undone"
        page.get_by_label("Suggest while I type").check()
        editor.press("End")
        editor.press_sequentially("b")
        expect(ghost).to_have_count(1)

    def test_what_this_model_cannot(self):
        # The small model has no fill-in-the-middle: text after the cursor is refused, and the page says why.
        with self.visit("422") as page:
            page.goto(self.server.url + "/#complete")
            page.locator("#editor").press("Control+Enter")
            expect(page.locator("#complete-problem")).to_contain_text("fill-in-the-middle")

    def test_the_middle_is_sent_and_the_choice_is_kept(self):
        with self.visit() as page:
            sent = []

            def answer(route):
                sent.append(route.request.post_data_json)
                figures = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13, "cached_tokens": 3}
                cache = {"outcome": "miss", "key": "", "prompt_hash": "", "context_hash": None}
                names = ["total", "model_loading", "prompt", "queue", "prefill", "decode", "time_to_first_token"]
                timings = {f"{name}_seconds": 0.01 for name in names}
                route.fulfill(json={"completions": ["1 + 2", "3"], "finish_reason": "stop", "usage": figures, "cache": cache, "timings": timings})

            page.route("**/api/v1/code/complete", answer)
            page.goto(self.server.url + "/#complete")
            editor = page.locator("#editor")
            editor.fill("a = \nb = 2")
            page.evaluate("document.getElementById('editor').setSelectionRange(4, 4)")
            page.get_by_role("spinbutton", name="Suggestions").fill("2")
            editor.press("Control+Enter")
            expect(page.locator("#editor-shadow .ghost")).to_have_text("1 + 2")
            assert (sent[0]["prefix"], sent[0]["suffix"], sent[0]["n"]) == ("a = ", "\nb = 2", 2), sent
            page.locator("button.candidate").nth(1).click()
            expect(page.locator("#editor-shadow .ghost")).to_have_text("3")
            page.keyboard.press("Tab")
            assert editor.input_value() == "a = 3\nb = 2", editor.input_value()

    def test_the_dashboard_moves(self):
        with self.visit() as page:
            page.goto(self.server.url + "/#dashboard")
            tile = page.get_by_role("group", name="Generated tokens")
            expect(tile).to_contain_text("so far")
            counted = lambda: int(re.search(r"([\d,]+) so far", tile.inner_text())[1].replace(",", ""))
            before = counted()
            self.server.post("/api/v1/code/generate", {"user_question": self.question(), "max_tokens": 12})
            expect(tile.locator(".tile-value")).not_to_have_text("0/s")
            self.wait(lambda: (page.wait_for_timeout(200), counted())[1] > before, "the tokens are counted")
            line = tile.locator("path.line").first.get_attribute("d")
            page.wait_for_function("(before) => document.querySelectorAll('path.line.t-a')[3].getAttribute('d') !== before", arg=line)
            expect(page.locator("#tiers")).to_contain_text("memory")
            expect(page.locator("#endpoints")).to_contain_text("/api/v1/code/generate")
            expect(page.locator("#scopes")).to_contain_text("ai_prediction")
            expect(page.locator("#facts")).to_contain_text(MODEL)
            tile.locator(".plot").hover()
            expect(tile.locator(".ago")).to_have_count(1)

    def test_several_models_take_turns_on_the_dashboard(self):
        with tempfile.TemporaryDirectory() as folder:
            tiny = f"{folder}/tiny.gguf"
            subprocess.run([self.options.tiny_model, tiny], check=True)
            # Less than the larger one alone: one leaves for the other.
            models = ["--model", MODEL, "--also", tiny, "--memory-budget", "64MiB"]
            with Server(self.options.hapa, self.options.home, *models) as server:
                with Visit(self.browser, server.url) as page:
                    page.goto(server.url + "/#dashboard")
                    state = {name: page.locator("#facts div", has_text=name).locator("dd") for name in [MODEL, "tiny"]}
                    for asked, other in [(MODEL, "tiny"), ("tiny", MODEL), (MODEL, "tiny")]:
                        body = {"user_question": self.question(), "max_tokens": 4, "model": asked}
                        server.post("/api/v1/code/generate", body)
                        expect(state[asked]).to_contain_text("ready")
                        expect(state[asked]).to_contain_text("used")
                        expect(state[other]).to_have_text(re.compile("^unloaded"))
                    self.picture(page, "models")

    def test_requests_their_timeline_and_its_file(self):
        with self.visit() as page:
            self.generate(page, self.question())
            page.get_by_role("link", name="Timeline of this request").click()
            expect(page.locator("#h-trace")).to_contain_text("/api/v1/code/generate")
            for stage in ["queue", "prefill", "decode"]:
                expect(page.locator("#waterfall")).to_contain_text(stage)
            with page.expect_download() as download:
                page.get_by_role("button", name="Download trace").click()
            trace = json.loads(pathlib.Path(download.value.path()).read_text())
            names = {event["name"] for event in trace["traceEvents"]}
            assert {"prefill", "decode"} <= names, names

    def test_a_wrong_field_is_told_at_the_field(self):
        with self.visit("422") as page:
            page.get_by_label("Question", exact=True).fill("")
            page.keyboard.press("Control+Enter")
            expect(page.locator("#question-error")).to_be_visible()
            expect(page.locator("#question")).to_have_attribute("aria-invalid", "true")
            expect(page.locator("#question")).to_be_focused()
            page.get_by_label("Question", exact=True).fill("x")
            page.get_by_label("Temperature").fill("-1")
            page.keyboard.press("Control+Enter")
            expect(page.locator("#question-error")).to_be_hidden()
            expect(page.locator("#temperature")).to_have_attribute("aria-invalid", "true")

    def refused(self, status, code, **details):
        body = {"status": "error", "error_message": f"refused with {code}", "error_code": code, "error_details": details}
        headers = {"retry-after": str(details["retry_after_seconds"])} if "retry_after_seconds" in details else {}
        return lambda route: route.fulfill(status=status, headers=headers, json=body)

    def test_refusals_say_when_to_try_again(self):
        for status, code, words in [(429, "RATE_LIMITED", "Too many requests"), (503, "OVERLOADED", "busy")]:
            with self.visit(str(status)) as page:
                page.route("**/api/v1/code/generate", self.refused(status, code, retry_after_seconds=2))
                page.get_by_label("Question", exact=True).fill("x")
                page.keyboard.press("Control+Enter")
                notice = page.locator("#generate-problem")
                expect(notice).to_contain_text(words)
                expect(notice).to_contain_text("trying again in")
                again = notice.get_by_role("button", name="Try again")
                expect(again).to_be_enabled()
                page.unroute("**/api/v1/code/generate")
                page.locator("#max-tokens").fill("8")
                again.click()
                expect(page.locator("#generate-status")).to_contain_text("Done in")
                expect(notice).to_be_hidden()

    def test_a_key_is_asked_for_and_sent(self):
        with tempfile.TemporaryDirectory() as home:
            server = Server(self.options.hapa, home, "--model", str(model_file(self.options.home)))
            made = [self.options.hapa, "keys", "create", "--name"]

            def key(*arguments):
                command = subprocess.run([*made, *arguments], env=server.environment, check=True, capture_output=True, text=True)
                return command.stdout.strip()

            writer, admin = key("writer", "--scope", "code_generation"), key("operator", "--scope", "admin")
            with server, Visit(self.browser, server.url, ["401", "403"]) as page:
                dialog = page.get_by_role("dialog", name="API key")
                page.goto(server.url + "/#dashboard")
                for given in [None, "hapa_" + "0" * 32]:
                    if given:
                        page.keyboard.type(given)
                        page.keyboard.press("Enter")
                    # Also the second time it says what is wrong and is ready for another one.
                    expect(page.locator("#dashboard-problem")).to_contain_text("wants an API key")
                    expect(dialog).to_be_visible()
                    expect(page.get_by_label("Key", exact=True)).to_be_focused()
                self.picture(page, "key")
                page.keyboard.type(writer)
                page.keyboard.press("Enter")
                expect(page.locator("#dashboard-problem")).to_contain_text("This key may not do that")
                expect(dialog).to_be_hidden()
                self.generate(page, "hello", tokens=8)
                page.locator("#key-button").click()
                page.keyboard.type(admin)
                page.keyboard.press("Enter")
                page.goto(server.url + "/#dashboard")
                expect(page.locator("#facts")).to_contain_text("Architecture")
                expect(page.locator("#dashboard-problem")).to_be_hidden()
                expect(page.locator("#key-button")).to_have_text("API key set")
                assert page.evaluate("sessionStorage.length") == 1 and page.evaluate("localStorage.length") == 0
                for forgotten in [writer, admin]:
                    assert forgotten not in page.content()

    def test_the_server_goes_and_comes_back(self):
        home = self.options.home
        with Server(self.options.hapa, home, "--model", MODEL) as server:
            with Visit(self.browser, server.url, ["ERR_", "Failed to load"]) as page:
                expect(page.locator("#model-state")).to_contain_text("first request")
                server.stop()
                expect(page.locator("#gone")).to_contain_text("does not answer")
                page.get_by_label("Question", exact=True).fill("x")
                page.keyboard.press("Control+Enter")
                expect(page.locator("#generate-problem")).to_contain_text("does not answer")
                server.start()
                expect(page.locator("#gone")).to_be_hidden()

    def test_load_progress_with_percent(self):
        with tempfile.TemporaryDirectory() as home, SlowHub(model_file(self.options.home)) as hub:
            environment = {"HF_ENDPOINT": hub.url, "HOME": home}
            with Server(self.options.hapa, home, "--model", REPOSITORY, environment=environment) as server:
                with Visit(self.browser, server.url) as page:
                    page.get_by_label("Question", exact=True).fill("hello")
                    page.get_by_label("Max tokens").first.fill("8")
                    page.keyboard.press("Control+Enter")
                    expect(page.locator("#loading-stage")).to_contain_text("Fetching")
                    expect(page.locator("#loading-detail")).to_have_text(re.compile(r"^(39|40)%, \d"))
                    expect(page.locator("#model-state")).to_contain_text("loading")
                    self.picture(page, "loading")
                    hub.go.set()
                    expect(page.locator("#generate-status")).to_contain_text("Done in")
                    expect(page.locator("#loading")).to_be_hidden()
                    expect(page.locator("#model-state")).to_have_text("ready")

    def test_a_load_that_is_waited_for(self):
        # As when the load takes longer than the server lets a request wait.
        with self.visit("503") as page:
            loading = {"status": "loading", "stage": "packing", "progress": 0.42, "done": 42, "total": 100}
            health = {"status": "healthy", "version": "0", "model": MODEL, "model_state": "loading", "readiness": loading}
            page.route("**/health", lambda route: route.fulfill(json=health))
            page.route("**/api/v1/code/generate", self.refused(503, "MODEL_LOADING", retry_after_seconds=1))
            page.get_by_label("Question", exact=True).fill("x")
            page.get_by_label("Max tokens").first.fill("8")
            page.keyboard.press("Control+Enter")
            expect(page.locator("#generate-status")).to_contain_text("42%")
            page.unroute("**/api/v1/code/generate")
            page.unroute("**/health")
            expect(page.locator("#generate-status")).to_contain_text("Done in")

    def test_keyboard_only(self):
        with self.visit() as page:
            page.goto(self.server.url + "/#dashboard")
            page.reload()
            page.keyboard.press("Tab")
            expect(page.get_by_text("Skip to content")).to_be_focused()
            for _ in range(2):
                page.keyboard.press("Tab")
            page.keyboard.press("Enter")
            expect(page.locator("#question")).to_be_focused()
            seen = ["question"]
            outlined = """() => {
                const node = document.activeElement, style = getComputedStyle(node);
                const shown = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0;
                return [node.id || node.textContent.trim(), shown];
            }"""
            for _ in range(40):
                page.keyboard.press("Tab")
                if page.evaluate("document.activeElement === document.body"):
                    continue
                name, shown = page.evaluate(outlined)
                if name in seen:
                    break
                assert shown, f"no focus ring on {name}"
                seen.append(name)
            for name in ["Dashboard", "key-button", "question", "max-tokens", "no-cache", "generate-button"]:
                assert name in seen, seen
            page.locator("header nav a", has_text="Dashboard").focus()
            page.keyboard.press("Enter")
            expect(page.get_by_role("heading", name="Dashboard", level=1)).to_be_visible()
            page.locator("#key-button").focus()
            page.keyboard.press("Enter")
            expect(page.get_by_role("dialog")).to_be_visible()
            page.keyboard.press("Escape")
            expect(page.get_by_role("dialog")).to_be_hidden()
            expect(page.locator("#key-button")).to_be_focused()

    def test_widths_schemes_and_axe(self):
        for scheme, width in [("light", 1280), ("dark", 1280), ("light", 360), ("dark", 360)]:
            with self.visit(color_scheme=scheme) as page:
                page.set_viewport_size({"width": width, "height": 800})
                self.generate(page, "Write hello world in Python", tokens=40)
                for view in VIEWS:
                    page.goto(f"{self.server.url}/#{view}")
                    if view == "dashboard":
                        expect(page.locator("#facts")).to_contain_text(MODEL)
                    if view == "requests":
                        page.locator("#requests-table tbody button").first.click()
                        expect(page.locator("#waterfall")).to_be_visible()
                    where = f"{view}, {scheme}, {width} px"
                    wide = page.evaluate("document.documentElement.scrollWidth")
                    assert wide <= width, f"{where}: {wide} px wide"
                    self.picture(page, f"{view}-{scheme}-{width}")
                    serious = [found for found in Axe().run(page).response["violations"] if found["impact"] in ("serious", "critical")]
                    assert not serious, f"{where}: {json.dumps(serious, indent=1)[:3000]}"

    def picture(self, page, name):
        if self.options.screenshots:
            page.screenshot(path=f"{self.options.screenshots}/{name}.png", full_page=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--hapa", required=True, help="the program")
    parser.add_argument("--tiny-model", required=True, help="the program that writes a tiny model")
    parser.add_argument("--home", required=True, help="its store of models")
    parser.add_argument("--screenshots", help="a folder for pictures")
    parser.add_argument("tests", nargs="*", help="parts of names; all by default")
    options = parser.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"The web page can't be tested: none of {', '.join(BROWSERS)} is installed (apt-get install chromium).")
    if options.screenshots:
        pathlib.Path(options.screenshots).mkdir(parents=True, exist_ok=True)
    failed = []
    with sync_playwright() as playwright, Server(options.hapa, options.home, "--model", MODEL) as server:
        # Root has no sandbox, and a container little shared memory.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        chromium = playwright.chromium.launch(executable_path=browser, args=arguments)
        server.post("/api/v1/code/generate", {"user_question": "hello", "max_tokens": 4})
        tests = Tests(chromium, server, options)
        for name in [name for name in dir(tests) if name.startswith("test_")]:
            if options.tests and not any(part in name for part in options.tests):
                continue
            began = time.monotonic()
            try:
                getattr(tests, name)()
                verdict = "ok"
            except Exception:  # noqa: BLE001: the other tests still say something
                traceback.print_exc()
                failed.append(name)
                verdict = "FAILED"
            print(f"{verdict:7}{name} ({time.monotonic() - began:.1f} s)", flush=True)
        chromium.close()
    if failed:
        sys.exit(f"{len(failed)} tests of the web page failed: {', '.join(failed)}")


main()
