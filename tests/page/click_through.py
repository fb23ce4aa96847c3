#!/usr/bin/env python3
"""Test the dashboard in headless Chromium: with a mouse, with the keyboard alone, in light and dark mode, on a narrow
screen, and without scripts.

The script starts the given node in a directory of its own, and writes screenshots to the folder of --screenshots. With
--axe, a copy of axe.min.js (the package axe-core), axe also checks each state of the page; without it, the script
prints that axe was not used.

Requirements: chromium, chromedriver (Debian: chromium-driver) and Python's selenium.
"""

import argparse
import base64
import json
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

# Test timeout: after this, the event will never come.
PATIENCE_S = 30

# Default limits of a slice: more gas than an endless one can use while this script runs.
LIMITS = "[limits]\ngas = 9000000000000000000\n"

GUEST = '(module (memory (export "memory") 1) (func (export "run") (result i32) (i32.const 0)))'
OTHER_GUEST = GUEST.replace("(i32.const 0)))", "(i32.const 7)))")
ENDLESS = """(module (memory (export "memory") 1)
    (func (export "run") (result i32) (loop $again (br $again)) (i32.const 0)))"""
# A module with a forbidden import whose name would reverse the line, and lacks the required exports.
REFUSED = '(module (import "env" "evil\\e2\\80\\ae<b>" (func)) (func (export "walk")))'

# Hash of the secret `click-through`; tests/it/page.rs checks it.
TOKEN_HASH = "61675b1586dc6c4f7fa9783ae2ffed4468a085351cebcc1d563c96a2dacbf712"


class Node:
    """A serving node in a directory of its own."""

    def __init__(self, program, config=LIMITS):
        self.directory = Path(tempfile.mkdtemp(prefix="click-through-"))
        data = self.directory / "node-data"
        data.mkdir()
        (data / "config.toml").write_text(config)
        command = [program, "--data-dir", data, "serve", "--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=self.directory)
        for line in self.process.stderr:
            found = re.search(r"listening on (http://[0-9.:]+)", line)
            if found:
                self.url = found[1]
                break
        else:
            raise SystemExit("the node has ended")

    def ask(self, method, path, body=None, **headers):
        headers = {"Content-Type": "application/octet-stream"} | headers
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.read()

    def run(self, query, body, **headers):
        return json.loads(self.ask("POST", "/v1/slices?" + query, body, **headers))

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        # If no one read the pipe, the node would block.
        self.process.communicate(timeout=PATIENCE_S)
        shutil.rmtree(self.directory)


class Browser:
    def __init__(self, arguments):
        options = webdriver.ChromeOptions()
        options.binary_location = arguments.chromium
        # No sandbox: it is not available in containers, and the page under test is our own. No name
        # is resolved: a request of the page to another host would fail, and be detected.
        for argument in [
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            "--window-size=1280,900",
        ]:
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(arguments.chromedriver))
        self.driver.set_page_load_timeout(PATIENCE_S)
        self.driver.set_script_timeout(PATIENCE_S)
        self.screenshots = Path(arguments.screenshots)
        self.screenshots.mkdir(parents=True, exist_ok=True)
        self.axe = Path(arguments.axe).read_text() if arguments.axe else None
        self.requests = []
        self.looked_at = 0

    def cdp(self, command, **parameters):
        return self.driver.execute_cdp_cmd(command, parameters)

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector):
        return self.js("return document.querySelector(arguments[0])?.textContent ?? ''", selector)

    def until(self, what, look):
        began = time.monotonic()
        while time.monotonic() - began < PATIENCE_S:
            found = look()
            if found:
                return found
            time.sleep(0.05)
        self.shot("failed")
        raise AssertionError(f"waited in vain for {what}")

    def press(self, *keys):
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def focused(self):
        """Returns a description of the focused element."""
        return self.js(
            """const e = document.activeElement;
               return e === document.body ? "" : (e.id && "#" + e.id) || e.getAttribute("href") || e.textContent.trim()"""
        )

    def read_log(self):
        """Returns the browser's events since the last call, and records its requests."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event for event in events if event["method"] == "Network.requestWillBeSent"]
        self.requests += [event["params"]["request"]["url"] for event in sent]
        return events

    def shot(self, name):
        """Saves a screenshot of the whole page, not only of its visible part."""
        shown = self.cdp("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        (self.screenshots / f"{name}.png").write_bytes(base64.b64decode(shown))

    def look_over(self, name):
        """Saves a screenshot, and checks the accessibility of the page with axe."""
        self.shot(name)
        if self.axe:
            self.js(self.axe)
            found = self.driver.execute_async_script(
                "const done = arguments[0]; axe.run({ resultTypes: ['violations'] }).then((r) => done(r.violations))"
            )
            told = [(one["id"], one["help"], [node["html"] for node in one["nodes"]]) for one in found]
            assert not told, f"{name}: {json.dumps(told, indent=1)}"
            self.looked_at += 1

    def is_as_wide_as_the_screen(self):
        wide, screen = self.js("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
        return wide <= screen

    def colours(self, scheme):
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def width(self, width):
        if width is None:
            self.cdp("Emulation.clearDeviceMetricsOverride")
        else:
            self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=True)

    def check_console(self, expected=()):
        """Asserts that the console shows no unexpected error, and that nothing was blocked."""
        said = [entry["message"] for entry in self.driver.get_log("browser")]
        told = [line for line in said if not any(one in line for one in expected)]
        assert not told, told

    def check_requests(self, url):
        self.read_log()
        # A name and password in an address are not part of the target.
        asked = [re.sub("//[^/@]*@", "//", one) for one in self.requests]
        elsewhere = [one for one in asked if not one.startswith((url + "/", "data:", "blob:" + url))]
        assert not elsewhere, elsewhere
        assert any(one == url + "/page/slices" for one in asked), "the page refreshes itself"


def said(step):
    print(f"ok  {step}", flush=True)


def first_look(browser, node):
    browser.driver.get(node.url + "/")
    assert "No slice runs now." in browser.text("#slices")
    assert "No module is stored." in browser.text("#modules")
    browser.look_over("empty")
    said("an idle node says so")


def skip_and_tab(browser):
    """The keyboard reaches all controls, in reading order, and the focus is visible."""
    browser.driver.refresh()
    browser.press(Keys.TAB)
    assert browser.focused() == "#main", browser.focused()
    assert browser.js("return document.activeElement.getBoundingClientRect().left >= 0"), "the skip link shows itself"
    browser.press(Keys.ENTER)
    browser.until("the skip link to skip", lambda: browser.js("return document.activeElement.id") == "main")
    browser.driver.refresh()
    expected = browser.js(
        """return [...document.querySelectorAll("a[href], button, input, summary, [tabindex='0']")]
               .filter((e) => e.checkVisibility()).map((e) => (e.id && "#" + e.id) || e.getAttribute("href") || e.textContent.trim())"""
    )
    reached = []
    for _ in expected:
        browser.press(Keys.TAB)
        reached.append(browser.focused())
        outline = browser.js("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", f"{reached[-1]} does not show its focus"
    assert reached == expected, (reached, expected)
    said(f"the keyboard reaches all {len(expected)} links, buttons and fields in order")


def upload_by_button(browser, node):
    """Enter on the button opens the browser's file dialogue."""
    path = node.directory / "good.wat"
    path.write_text(GUEST)
    browser.cdp("Page.setInterceptFileChooserDialog", enabled=True)
    browser.read_log()
    browser.js("document.getElementById('upload-name').focus()")
    browser.press("good", Keys.TAB, Keys.ENTER)

    def opened():
        events = [event for event in browser.read_log() if event["method"] == "Page.fileChooserOpened"]
        return events and events[0]["params"]["backendNodeId"]

    field = browser.until("the dialogue for files", opened)
    browser.cdp("DOM.setFileInputFiles", files=[str(path)], backendNodeId=field)
    browser.until("the new module", lambda: "is added as good" in browser.text("#upload-said"))
    browser.until("its row", lambda: "good" in browser.text("#modules tbody"))
    assert browser.focused() == "#upload-choose", browser.focused()
    assert not browser.text("#upload-report")
    said("a module comes by the button, with the keyboard alone")


def upload_by_drop(browser, node):
    path = node.directory / "dropped.wat"
    path.write_text(OTHER_GUEST)
    drop_file(browser, path)
    browser.until("the new module", lambda: "dropped.wat is added" in browser.text("#upload-said"))
    browser.until("its row", lambda: browser.js("return document.querySelectorAll('#modules tbody tr').length") == 2)
    drop_file(browser, path)
    browser.until("that it was here", lambda: "was here already" in browser.text("#upload-said"))
    said("a module comes by a drop, and is known again")


def drop_file(browser, path):
    browser.js("document.getElementById('drop').scrollIntoView({ block: 'center' })")
    place = browser.js("const r = document.getElementById('drop').getBoundingClientRect(); return [r.x + 9, r.y + 9]")
    data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
    for kind in ["dragEnter", "dragOver", "drop"]:
        browser.cdp("Input.dispatchDragEvent", type=kind, x=place[0], y=place[1], data=data)


def upload_refused(browser, node):
    path = node.directory / "refused.wat"
    path.write_text(REFUSED)
    drop_file(browser, path)
    browser.until("the report", lambda: browser.text("#upload-report li"))
    assert "is not added" in browser.text("#upload-said"), browser.text("#upload-said")
    report = browser.text("#upload-report")
    assert browser.js("return document.querySelectorAll('#upload-report li').length") >= 2, report
    assert "\u202e" not in report + browser.text("#upload-said"), "a name turns the line around"
    assert "evil" in report and not browser.driver.find_elements(By.CSS_SELECTOR, "#upload-report b")
    browser.find("#upload-report summary").send_keys(Keys.ENTER)
    # The characters that reverse the line are escaped, in a form that is not a JSON escape.
    whole = json.loads(re.sub(r"\\+u\{202e\}", "", browser.text("#upload-report pre")))
    assert whole["admitted"] is False and whole["exports"] == ["walk"], whole
    browser.look_over("refused")
    said("a module that is refused comes back with the gate's whole report")


def run_slices(browser, node):
    """New rows appear without a reload, and do not take the focus or the selection away."""
    node.run("workload=transcode&id=first", b"slice")
    browser.until("the first proof", lambda: "first" in browser.text("#proofs tbody"))
    browser.js(
        """const link = document.querySelector("#proofs tbody a");
           link.focus();
           getSelection().selectAllChildren(link);
           window.link = link;"""
    )
    for name in ["second", "<script>alert(1)</script>"]:
        node.run("workload=inference&id=" + urllib.parse.quote(name, safe=""), name.encode())
    browser.until("the others", lambda: browser.js("return document.querySelectorAll('#proofs tbody tr').length") == 3)
    kept = browser.js(
        "return [window.link.isConnected, document.activeElement === window.link, getSelection().toString()]"
    )
    assert kept == [True, True, "first"], kept
    node.ask("POST", "/v1/modules?name=fails", OTHER_GUEST.encode())
    node.run("module=fails&id=one-that-fails", b"x")
    digest = json.loads(node.ask("POST", "/v1/modules?name=endless", ENDLESS.encode()))["digest"]
    tasks = [
        node.run(f"module={digest}&id=long-{at}", bytes([at]), Prefer="respond-async")["task"]
        for at in range(6)
    ]
    browser.until("one to run", lambda: "long-" in browser.text("#slices tbody"))
    before = browser.js("return document.querySelector('#slices progress').value")
    grows = lambda: browser.js("return document.querySelector('#slices progress').value") > before
    browser.until("its bar to grow", grows)
    assert "Waiting: " in browser.text("#slices")
    browser.until("the failed one", lambda: "failed (7)" in browser.text("#proofs"))
    browser.look_over("busy")
    browser.colours("dark")
    browser.look_over("busy-dark")
    browser.width(320)
    browser.look_over("busy-dark-narrow")
    browser.colours("light")
    browser.look_over("busy-narrow")
    assert browser.is_as_wide_as_the_screen(), "the page scrolls to the side"
    browser.width(None)
    for task in tasks:
        node.ask("POST", f"/v1/slices/{task}/cancel")
    browser.until("none to run", lambda: "No slice runs now." in browser.text("#slices"))
    said("slices appear as they run, and their proofs; in light and dark, wide and narrow; focus and selection stay")


def offer_prices(browser, node):
    assert "No offer has come" in browser.text("#prices")
    # Without a pattern, and the same each time.
    for at in range(40):
        offer = {"price": 900 + at * at * 37 % 211 + 6 * at, "lane": ["transcode", "inference"][at % 2], "provider": f"p{at % 7}"}
        node.ask("POST", "/v1/prices", json.dumps(offer).encode(), **{"Content-Type": "application/json"})
        # A plot has two dimensions: the offers must be some milliseconds apart.
        time.sleep(0.02)
    browser.until("the bands", lambda: "40 offers by 7 providers" in browser.text("#prices"))
    browser.until("the plot", lambda: browser.js("return document.querySelectorAll('#prices circle').length") == 40)
    browser.shot("prices")
    medians = browser.js("return getComputedStyle(document.querySelector('#prices .median')).stroke")
    browser.colours("dark")
    dark = browser.js("return getComputedStyle(document.querySelector('#prices .median')).stroke")
    browser.colours("light")
    assert medians != dark, "the plot has its colours by the scheme"
    said("offers appear as bands and as a plot")


def read_a_proof(browser, node):
    """Opens a proof from the table, copies its JSON, and saves both forms, with the keyboard alone."""
    link = browser.find("#proofs tbody a[href='/proofs/first']")
    link.send_keys(Keys.ENTER)
    browser.until("the proof", lambda: browser.driver.title == "Proof of first – Node")
    kept = json.loads(node.ask("GET", "/v1/proofs/first"))
    assert json.loads(browser.text("#proof-json")) == kept
    origin = {"origin": node.url}
    browser.cdp("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"], **origin)
    browser.cdp("Emulation.setFocusEmulationEnabled", enabled=True)
    downloads = node.directory / "downloads"
    downloads.mkdir()
    browser.cdp("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
    browser.press(Keys.TAB, Keys.TAB, Keys.TAB, Keys.ENTER)
    browser.until("it to be copied", lambda: browser.text("#said") == "The JSON is copied.")
    copied = browser.driver.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    assert json.loads(copied) == kept
    for accept, suffix in [("application/vnd.compute-host.proof", ".proof"), ("application/json", ".json")]:
        browser.press(Keys.TAB, Keys.ENTER)
        file = downloads / f"proof-{kept['claim'][:16]}{suffix}"
        browser.until("the download", file.exists)
        assert file.read_bytes() == node.ask("GET", "/v1/proofs/first", Accept=accept)
        browser.until("that it is told", lambda: browser.text("#said") == f"{file.name} is saved.")
    browser.look_over("proof")
    browser.colours("dark")
    browser.width(320)
    browser.look_over("proof-dark-narrow")
    assert browser.is_as_wide_as_the_screen(), "the proof scrolls to the side"
    browser.width(None)
    browser.colours("light")
    browser.driver.get(node.url + "/proofs/none")
    assert "No such proof" in browser.driver.title
    browser.look_over("no-such-proof")
    browser.driver.get(node.url + "/proofs/" + urllib.parse.quote("<script>alert(1)</script>", safe=""))
    assert "<script>" in browser.text("h1")
    browser.driver.get(node.url + "/")
    said("a proof is read, copied and saved")


def remove_a_module(browser, node):
    rows = lambda: browser.js("return document.querySelectorAll('#modules tbody tr').length")
    before = rows()
    button = browser.find("#modules button[data-name='good']")
    button.send_keys(Keys.ENTER)
    browser.driver.switch_to.alert.dismiss()
    assert rows() == before
    button.send_keys(Keys.ENTER)
    browser.driver.switch_to.alert.accept()
    browser.until("it to go", lambda: rows() == before - 1)
    browser.until("that it is told", lambda: browser.text("#upload-said") == "good is removed.")
    browser.until("the focus to stay near", lambda: browser.focused() == "#modules-title")
    said("a module is removed, after a question")


def rest_while_hidden(browser):
    """A hidden page sends no requests."""
    asked = lambda: (browser.read_log(), sum(one.endswith("/page/slices") for one in browser.requests))[1]
    show = "Object.defineProperty(document, 'visibilityState', { value: arguments[0], configurable: true });"
    show += "document.dispatchEvent(new Event('visibilitychange'))"
    browser.js(show, "hidden")
    # One request may be under way; then wait for twice the refresh interval.
    time.sleep(2.5)
    before = asked()
    time.sleep(5)
    assert asked() == before, "the page goes on asking"
    browser.js(show, "visible")
    browser.until("it to ask again", lambda: asked() > before)
    said("nothing is asked for while the page is hidden")


def without_scripts(browser, node):
    browser.cdp("Emulation.setScriptExecutionDisabled", value=True)
    browser.driver.get(node.url + "/")
    source = browser.driver.page_source
    for expected in ["This node", "Recent proofs", "first", "endless", 'http-equiv="refresh"', "Without scripts"]:
        assert expected in source, expected
    assert not browser.find("#upload-choose").is_displayed(), "no button that does nothing"
    browser.shot("without-scripts")
    browser.cdp("Emulation.setScriptExecutionDisabled", value=False)
    said("without scripts the page is complete")


def with_a_token(browser, program):
    config = f'[tokens.alice]\nhash = "{TOKEN_HASH}"\nrights = ["run"]\n'
    node = Node(program, config)
    bearer = {"Authorization": "Bearer click-through"}
    try:
        browser.driver.get(node.url.replace("http://", "http://me:click-through@") + "/")
        assert "token alice" in browser.text("#overview"), browser.text("body")
        assert not browser.driver.find_elements(By.CSS_SELECTOR, "#courier, #drop")
        node.run("workload=transcode&id=hers", b"slice", **bearer)
        browser.until("her proof", lambda: "hers" in browser.text("#proofs"))
        browser.look_over("token")
        browser.check_console()
        browser.check_requests(node.url)
    finally:
        node.stop()
    browser.until("that the node is gone", lambda: "does not answer" in browser.text("#freshness"))
    browser.shot("gone")
    said("a token sees its own, and who looks hears that the node is gone")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("node", help="the built program")
    parser.add_argument("--screenshots", required=True, metavar="DIR")
    parser.add_argument("--axe", metavar="FILE", help="axe.min.js")
    parser.add_argument("--chromium", default=shutil.which("chromium"), metavar="FILE")
    parser.add_argument("--chromedriver", default=shutil.which("chromedriver"), metavar="FILE")
    arguments = parser.parse_args()
    program = str(Path(arguments.node).resolve())
    node, browser = Node(program), None
    try:
        browser = Browser(arguments)
        first_look(browser, node)
        skip_and_tab(browser)
        upload_by_button(browser, node)
        upload_by_drop(browser, node)
        browser.check_console()
        upload_refused(browser, node)
        # A browser reports every error response.
        browser.check_console(["/v1/modules - Failed to load resource: the server responded with a status of 422"])
        offer_prices(browser, node)
        run_slices(browser, node)
        browser.check_console()
        skip_and_tab(browser)
        read_a_proof(browser, node)
        browser.check_console(["/proofs/none - Failed to load resource: the server responded with a status of 404"])
        remove_a_module(browser, node)
        rest_while_hidden(browser)
        without_scripts(browser, node)
        browser.check_console()
        browser.check_requests(node.url)
        browser.requests.clear()
        with_a_token(browser, program)
        if browser.axe:
            print(f"axe found nothing in {browser.looked_at} states of the page")
        else:
            print("not checked by axe: it was not given")
    finally:
        if browser:
            browser.driver.quit()
        node.stop()


if __name__ == "__main__":
    main()
