"use strict";

// The page is complete without this. It refreshes the parts that change, brings and removes modules, and copies and
// saves proofs. It asks nobody but the node that served it, and nothing while nobody sees the page.
(() => {
    const REPORT_CHARS_MAX = 100_000;

    // Without the name and password that the page's own address may have: no request may be made with these in it.
    const at = (path) => location.origin + path;

    const byId = (id) => document.getElementById(id);

    // What strangers bring is shown as the node itself shows it: what steers a terminal or turns the direction of
    // writing is written out.
    const printable = (text) =>
        String(text).replace(
            /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu,
            (c) => `\\u{${c.codePointAt(0).toString(16)}}`,
        );

    function element(name, properties, ...children) {
        const made = Object.assign(document.createElement(name), properties);
        made.append(...children);
        return made;
    }

    // Texts for those who listen: the same words again are not said again.
    function say(id, text) {
        const place = byId(id);
        if (place && place.textContent !== text) {
            place.textContent = text;
        }
    }

    // ---- What changes

    const keyOf = (node) => node.dataset?.key;

    // Makes `old` what `fresh` is and leaves alone what is the same, so that focus, selection and scroll stay.
    function morph(old, fresh) {
        for (const { name } of [...old.attributes]) {
            if (!fresh.hasAttribute(name)) {
                old.removeAttribute(name);
            }
        }
        for (const { name, value } of fresh.attributes) {
            if (old.getAttribute(name) !== value) {
                old.setAttribute(name, value);
            }
        }
        morphChildren(old, fresh);
    }

    function morphChildren(old, fresh) {
        const kept = new Set([...fresh.children].map(keyOf).filter(Boolean));
        const keyed = new Map();
        for (const child of [...old.children]) {
            const key = keyOf(child);
            if (key && !kept.has(key)) {
                child.remove();
            } else if (key) {
                keyed.set(key, child);
            }
        }
        let at = old.firstChild;
        for (const next of fresh.childNodes) {
            const key = keyOf(next);
            const found = key ? keyed.get(key) : at && !keyOf(at) ? at : null;
            if (!found || found.nodeName !== next.nodeName) {
                old.insertBefore(document.importNode(next, true), at);
                continue;
            }
            if (found === at) {
                at = at.nextSibling;
            } else {
                old.insertBefore(found, at);
            }
            if (next.nodeType === Node.ELEMENT_NODE) {
                morph(found, next);
            } else if (found.data !== next.data) {
                found.data = next.data;
            }
        }
        while (at) {
            const gone = at;
            at = at.nextSibling;
            gone.remove();
        }
    }

    const failing = new Set();
    const last = new Map();

    async function refresh(part) {
        const name = part.dataset.part;
        try {
            const response = await fetch(at(`/page/${name}`), { cache: "no-store", redirect: "error" });
            if (!response.ok) {
                const why = response.status === 401 ? "the node asks for a token; reload the page" : "the node is busy";
                throw new Error(why);
            }
            const text = await response.text();
            if (last.get(name) !== text) {
                last.set(name, text);
                morphChildren(part, new DOMParser().parseFromString(text, "text/html").body);
            }
            failing.delete(name);
        } catch (error) {
            failing.add(name);
            const why = error instanceof TypeError ? "the node does not answer" : error.message;
            say("freshness", `Not up to date: ${why}.`);
        }
        if (failing.size === 0) {
            say("freshness", "");
        }
    }

    const wait = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

    const seen = () =>
        new Promise((done) => {
            const look = () => {
                if (document.visibilityState === "visible") {
                    document.removeEventListener("visibilitychange", look);
                    done();
                }
            };
            document.addEventListener("visibilitychange", look);
            look();
        });

    async function follow(part) {
        for (;;) {
            await wait(Number(part.dataset.seconds));
            await seen();
            await refresh(part);
        }
    }

    const refreshModules = () => Promise.all([...document.querySelectorAll('[data-part="modules"]')].map(refresh));

    // ---- Modules

    const bytes = (number) => (number < 1024 ? `${number} B` : `${Math.ceil(number / 1024)} KiB`);

    function showReport(file, problem) {
        const place = byId("upload-report");
        place.replaceChildren();
        const { report } = problem;
        if (!report) {
            return;
        }
        const refusals = report.refusals.map((refusal) =>
            element(
                "li",
                {},
                printable(refusal.message),
                ". ",
                element("span", { className: "note" }, printable(refusal.hint), " "),
                element("code", {}, refusal.code),
            ),
        );
        const whole = printable(JSON.stringify(report, null, 2)).slice(0, REPORT_CHARS_MAX);
        const pre = element("pre", { tabIndex: 0, ariaLabel: "The gate's report as JSON" }, whole);
        pre.setAttribute("role", "region");
        place.append(
            element("h3", {}, `The gate's report on ${printable(file.name)}`),
            element("ol", {}, ...refusals),
            element("details", {}, element("summary", {}, "All that was read of it"), pre),
        );
    }

    async function upload(file) {
        const [button, name] = [byId("upload-choose"), byId("upload-name")];
        const called = printable(file.name);
        button.disabled = true;
        byId("upload-report").replaceChildren();
        say("upload-said", `Bringing ${called} (${bytes(file.size)})…`);
        try {
            const query = name.value.trim() ? `?name=${encodeURIComponent(name.value.trim())}` : "";
            const response = await fetch(at(`/v1/modules${query}`), {
                method: "POST",
                headers: { "content-type": "application/octet-stream" },
                body: file,
            });
            const answer = await response.json();
            if (response.ok) {
                const was = answer.new ? "is added" : "was here already";
                const names = answer.names.length > 0 ? ` as ${answer.names.join(", ")}` : "";
                const digest = answer.digest.slice(0, 16);
                say("upload-said", `${called} ${was}${names}: ${digest}…, ${bytes(answer.bytes)}.`);
                name.value = "";
                await refreshModules();
            } else {
                const broken = answer.report?.refusals.length;
                const reasons = broken === 1 ? "a reason" : `${broken} reasons`;
                const why = broken ? `the gate refuses it, for ${reasons}` : answer.detail;
                say("upload-said", `${called} is not added: ${printable(why)}.`);
                showReport(file, answer);
            }
        } catch {
            say("upload-said", `${called} is not added: the node does not answer, or the file cannot be read.`);
        } finally {
            button.disabled = false;
            // Where the button had the focus, it lost it when it was disabled.
            if (document.activeElement === document.body) {
                button.focus();
            }
        }
    }

    async function remove(button) {
        const { remove: address, name } = button.dataset;
        if (!confirm(`Remove the module ${name}? What was proved with it stays proved.`)) {
            return;
        }
        button.disabled = true;
        try {
            const response = await fetch(at(address), { method: "DELETE" });
            const answer = await response.json();
            const became = response.ok ? "is removed" : `is not removed: ${printable(answer.detail)}`;
            say("upload-said", `${name} ${became}.`);
            await refreshModules();
        } catch {
            say("upload-said", `${name} is not removed: the node does not answer.`);
        } finally {
            button.disabled = false;
        }
        if (!button.isConnected) {
            byId("modules-title").focus();
        }
    }

    function takeDrops(drop) {
        const hasFile = (event) => [...event.dataTransfer.types].includes("Files");
        // A file that is dropped beside the place would have the browser leave the page for it.
        for (const type of ["dragover", "drop"]) {
            document.addEventListener(type, (event) => hasFile(event) && event.preventDefault());
        }
        drop.addEventListener("dragover", () => drop.classList.add("over"));
        drop.addEventListener("dragleave", () => drop.classList.remove("over"));
        drop.addEventListener("drop", (event) => {
            drop.classList.remove("over");
            const { files } = event.dataTransfer;
            if (files.length === 1) {
                upload(files[0]);
            } else if (files.length > 1) {
                say("upload-said", "One module at a time, please.");
            }
        });
    }

    // ---- Proofs

    async function copy(button) {
        const source = byId(button.dataset.copy);
        try {
            await navigator.clipboard.writeText(source.textContent);
            say("said", "The JSON is copied.");
        } catch {
            // Browsers give the clipboard only to pages that came over TLS or from this machine, and may ask.
            getSelection().selectAllChildren(source);
            source.focus();
            say("said", "The browser does not let the page copy. The JSON is selected: press Ctrl+C.");
        }
    }

    async function download(button) {
        const { download: address, accept, file } = button.dataset;
        try {
            const response = await fetch(at(address), { headers: { accept } });
            if (!response.ok) {
                throw new Error((await response.json()).detail);
            }
            const link = element("a", { href: URL.createObjectURL(await response.blob()), download: file });
            link.click();
            setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
            say("said", `${file} is saved.`);
        } catch (error) {
            say("said", `${file} cannot be had: ${printable(error.message)}.`);
        }
    }

    // ---- Wiring

    document.documentElement.classList.add("runs-scripts");
    document.querySelectorAll("[data-part]").forEach(follow);
    document.addEventListener("click", (event) => {
        const button = event.target.closest("button");
        if (button?.dataset.remove) {
            remove(button);
        } else if (button?.dataset.copy) {
            copy(button);
        } else if (button?.dataset.download) {
            download(button);
        }
    });
    const [file, drop] = [byId("upload-file"), byId("drop")];
    if (file && drop) {
        byId("upload-choose").addEventListener("click", () => file.click());
        file.addEventListener("change", () => {
            const [chosen] = file.files;
            if (chosen) {
                upload(chosen);
            }
            // The same file again, once it is mended, is a change too.
            file.value = "";
        });
        takeDrops(drop);
    }
})();
