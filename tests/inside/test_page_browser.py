"""The page in Chromium: it recomputes what `why` does, alone, and for everyone."""

import base64
import math
import os
from pathlib import Path

import numpy as np
import pytest
from browser import chromium, complaints, look, open_page, requests
from helpers import CASES, tiny_params, token_ids

from npgpt import GPT2
from npgpt.decoding.rules.base import entropy, probabilities
from npgpt.decoding.rules.reshaping import temperature
from npgpt.decoding.rules.truncation import min_p, top_k, top_p
from npgpt.inside.page import page as make_page
from npgpt.inside.page import write_page
from npgpt.inside.recipes import recipes

pytestmark = pytest.mark.browser
TEXT = "Once upon a time there was an old king who had a daughter, and she"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="module")
def mini():
    return GPT2.from_pretrained("tales-mini")


@pytest.fixture(scope="module")
def page(mini, tmp_path_factory):
    path = tmp_path_factory.mktemp("pages") / "mini.html"
    write_page(mini, TEXT, path)
    return path


@pytest.fixture
def at(browser, page):
    """Open the page at a hash, in a window of ordinary width."""
    look(browser, 1280)
    return lambda hash="": open_page(browser, page, hash)


def traced(model, prompt):
    with model.trace() as trace:
        model.logits([model.encode(prompt)])
    return trace


def addresses(trace, n, seed=0):
    """Addresses of every name alike."""
    rng = np.random.default_rng(seed)
    names = list(recipes(trace.config))
    for i in range(n):
        name = names[i % len(names)]
        letters = recipes(trace.config)[name].letters[1:]
        index = {x: int(rng.integers(trace.sizes()[x])) for x in letters}
        if i % 5 and "s" in index:
            index["s"] = min(index["s"], index["t"])  # one that is seen
        yield f"{name}[{','.join(f'{x}={k}' for x, k in index.items())}]"


EXPLAIN = """
return arguments[0].map((text) => {
  const {name, index} = npgpt.parseAddress(text);
  const one = npgpt.explain(name, index);
  const said = (x) => (Number.isFinite(x) ? x : String(x));
  return {...one, value: said(one.value), recomputed: said(one.recomputed),
    tolerance: said(one.tolerance), ulps: said(one.ulps),
    terms: one.terms.map((term) => said(term.value)),
    operands: one.operands.map(({name, index, value}) => [name, index, said(value)])};
});
"""


def agree(browser, trace, every):
    """Whether the page explains these numbers as `why` does, word for word."""
    for address, one in zip(every, browser.execute_script(EXPLAIN, every), strict=True):
        why = trace.why(address)
        assert one["address"] == why.address
        assert not one.get("missing"), one
        assert number(one["value"]) == why.value, address
        assert one["agrees"], one
        assert one["formula"] == why.formula
        assert one["filled"] == why.filled
        assert one["meaning"] == why.meaning
        assert number(one["tolerance"]) == pytest.approx(why.tolerance, rel=1e-9)
        assert number(one["ulps"]) == pytest.approx(why.ulps, rel=1e-3, abs=1e-3)
        near = dict(rel=1e-12, abs=why.tolerance * 1e-6 + 1e-300)
        assert number(one["recomputed"]) == pytest.approx(why.recomputed, **near)
        terms = [number(x) for x in one["terms"]]
        assert terms == pytest.approx([term.value for term in why.terms], **near)
        operands = [
            (
                trace.write(trace.passes[0], name, tuple(index)) if index else name,
                number(x),
            )
            for name, index, x in one["operands"]
        ]
        assert operands == [(o.address, o.value) for o in why.operands]


def number(x):
    return float(x.replace("Infinity", "inf")) if isinstance(x, str) else x


def test_every_number_is_recomputed_as_why_does(browser, at, mini):
    at()
    trace = traced(mini, TEXT)
    agree(browser, trace, list(addresses(trace, 1000)))


@pytest.mark.parametrize("case", CASES)
def test_whatever_the_model_computes_by(browser, case, tmp_path):
    model = GPT2(tiny_params(CASES[case]))
    ids = token_ids(CASES[case], 1, 7)[0].tolist()
    write_page(model, ids, tmp_path / "page.html")
    open_page(browser, tmp_path / "page.html")
    trace = traced(model, ids)
    agree(browser, trace, list(addresses(trace, 250)))


def test_in_float64_too(browser, tmp_path):
    model = GPT2(tiny_params(), dtype="float64")
    write_page(model, [3, 1, 4, 1], tmp_path / "page.html")
    open_page(browser, tmp_path / "page.html")
    trace = traced(model, [3, 1, 4, 1])
    agree(browser, trace, [a for a in addresses(trace, 60) if "mean" not in a])


def test_a_focused_page_explains_what_it_can_and_says_what_it_cannot(
    browser, tales, tmp_path
):
    write_page(tales, TEXT, tmp_path / "page.html", "focus", "h.2.mlp.out[t=5,c=3]")
    open_page(browser, tmp_path / "page.html")
    trace = traced(tales, TEXT)
    matrices = ("c_attn", "attn.out", "mlp.pre", "mlp.out", "logits")
    every = [
        a for a in addresses(trace, 500)
        if a.startswith("h.2.") or not a.split("[")[0].endswith(matrices)
    ]  # fmt: skip
    agree(browser, trace, every)
    assert "h.2.mlp.out" in text(browser, "h1")  # it opened there
    at = "h.3.mlp.out[t=5,c=3]"
    open_page(browser, tmp_path / "page.html", at)
    assert "This page does not hold" in text(browser, ".note")


def test_a_cone_is_explained_down_to_the_token(browser, tales, tmp_path):
    cell = "h.5.mlp.out[t=5,c=3]"
    write_page(tales, TEXT, tmp_path / "page.html", "cone", cell)
    open_page(browser, tmp_path / "page.html")
    trace = traced(tales, TEXT)
    chain = [why.address for why in trace.why(cell, depth=200)]
    agree(
        browser, trace, [a for a in chain if a.split("[")[0] in recipes(tales.config)]
    )
    assert text(browser, "h1") == cell
    assert len(browser.find_elements("css selector", ".operand a")) >= 8


def text(browser, selector):
    return browser.find_element("css selector", selector).text


def test_what_is_written_as_a_product_is_one(browser, at):
    at("h.1.attn.scores[h=1,t=8,s=2]")
    for row in browser.find_elements("css selector", "tbody tr")[:8]:
        factors = row.find_elements("css selector", ".operand .number")
        product = math.prod(shown(one.text) for one in factors)
        value = shown(row.find_element("css selector", "td.number").text)
        assert product == pytest.approx(value, rel=1e-4)
    at("h.1.ln_1[t=3,c=5]")
    assert "−1 · h.1.ln_1.mean[t=3]" in text(browser, "tbody")
    at("wte[t=2,c=3]")  # looked up: the token is no factor
    assert " · " not in text(browser, ".product")
    assert "none at all" in text(browser, "tr.good")


def shown(text):
    """A number as the page writes it."""
    return float(text.strip().replace("−", "-"))


# Alone


def test_no_request_leaves_the_page(browser, at, page):
    requests(browser)
    complaints(browser)
    for hash in ("", "h.1.attn.scores", "h.1.mlp.out[t=5,c=7]", "next?top_k=3"):
        at(hash)
    asked = [url for url in requests(browser) if not url.startswith("about:")]
    assert {url.partition("#")[0] for url in asked} == {page.as_uri()}
    assert not complaints(browser)
    tried = browser.execute_async_script("""
        const done = arguments[0];
        const image = new Promise((resolve) => {
          const one = new Image();
          one.onload = () => resolve("loaded");
          one.onerror = () => resolve("refused");
          one.src = "data:image/gif;base64,R0lGODlhAQABAAAAACw=";
        });
        const call = fetch("http://127.0.0.1:1/")
          .then(() => "answered", () => "refused");
        const script = document.createElement("script");
        script.textContent = "window.injected = true";
        document.body.append(script);
        Promise.all([image, call])
          .then((all) => done([...all, window.injected ?? "refused"]));
    """)
    assert tried == ["refused"] * 3
    assert "Content Security Policy" in " ".join(complaints(browser))
    assert not [url for url in requests(browser) if url.startswith("http")]


def test_texts_are_never_markup(browser, mini, tmp_path):
    prompt = "<b>bold</b><img src=x onerror=alert(1)></script> &lt; 漢"
    write_page(mini, prompt, tmp_path / "page.html")
    for hash in ("", "h.0.attn.weights", "h.0.attn.weights[h=0,t=3,s=1]", "token[t=1]"):
        open_page(browser, tmp_path / "page.html", hash)
        assert not browser.find_elements("css selector", "b, img")
    open_page(browser, tmp_path / "page.html")
    assert prompt in text(browser, ".intro")


# The next token


def test_sliders_give_what_the_rules_give(browser, at, mini):
    at()
    z = traced(mini, TEXT)["logits"].array[0]
    rng = np.random.default_rng(5)
    asked = []
    for _ in range(200):
        asked.append({
            "t": int(rng.integers(len(z))),
            "temperature": float(rng.choice([0, 0.01, 1, rng.uniform(0.05, 2)])),
            "top_k": int(rng.choice([0, 1, rng.integers(1, 100)])),
            "top_p": float(rng.choice([1, 0, rng.uniform(0, 1)])),
            "min_p": float(rng.choice([0, 1, rng.uniform(0, 0.5)])),
        })  # fmt: skip
    found = browser.execute_script(
        """return arguments[0].map((asked) => {
          const logit = (_, v) => npgpt.read("logits", [0, asked.t, v]);
          const z = Float32Array.from({length: 4096}, logit);
          const p = npgpt.probabilities(npgpt.chosen(z, asked));
          return [Array.from(p), npgpt.entropy(p)];
        })""",
        asked,
    )
    for settings, (p, nats) in zip(asked, found, strict=True):
        left = z[settings["t"]]
        if settings["temperature"] != 1:
            left = temperature(left, settings["temperature"])
        left = top_k(left, settings["top_k"]) if settings["top_k"] else left
        left = min_p(top_p(left, settings["top_p"]), settings["min_p"])
        expected = probabilities(left)
        assert (np.array(p) > 0).tolist() == (expected > 0).tolist(), settings
        np.testing.assert_allclose(p, expected, rtol=1e-6, atol=1e-12)
        assert nats == pytest.approx(entropy(left), abs=1e-4)


def test_sliders_move_by_keys_and_are_in_the_address(browser, at):
    from selenium.webdriver.common.keys import Keys

    at("next")
    slider = browser.find_element("id", "top_k")
    for _ in range(3):
        slider.send_keys(Keys.ARROW_RIGHT)
    assert browser.current_url.endswith("#next?top_k=3")
    assert text(browser, ".left").startswith("3 of 4,096 tokens left")
    assert len(browser.find_elements("css selector", "#bars tr.cut")) == 10
    at("next?t=4&temperature=0")
    assert text(browser, ".left").startswith("1 of 4,096 tokens left")
    assert "token 4" in text(browser, "#bars caption")


# The keyboard


def test_the_keyboard_alone_goes_from_the_model_to_a_token_and_back(browser, at):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    def press(*keys):
        ActionChains(browser).send_keys(*keys).perform()

    def tab_to(wanted):
        for _ in range(400):
            press(Keys.TAB)
            active = browser.switch_to.active_element
            label = active.get_attribute("aria-label") or active.text
            if label.startswith(wanted):
                return
        raise AssertionError(f"no tab stop {wanted}")

    at()
    tab_to("h.0.attn.weights,")
    press(Keys.ENTER)
    assert hash_of(browser) == "h.0.attn.weights"
    assert browser.switch_to.active_element.get_attribute("role") == "grid"
    press(Keys.ARROW_DOWN * 3, Keys.ARROW_RIGHT * 2, Keys.PAGE_DOWN)
    here = "h.0.attn.weights[h=1,t=3,s=2]"
    live = text_of(browser, "#live")
    assert live.startswith(f"{here} = ")
    assert "t is token 3 (' time')" in live
    grid = browser.switch_to.active_element
    cell = browser.find_element("id", grid.get_attribute("aria-activedescendant"))
    assert cell.get_attribute("aria-label") == live
    press(Keys.ENTER)
    assert hash_of(browser) == here
    for wanted in ("h.0.attn.scores[", "h.0.attn.q[", "h.0.attn.c_attn["):
        tab_to(wanted)
        press(Keys.ENTER)
        assert hash_of(browser).startswith(wanted)
        assert text(browser, "tr.good").startswith("difference")
    press(Keys.ESCAPE)
    assert hash_of(browser).startswith("h.0.attn.c_attn[t=3,")  # its place in the map
    assert browser.switch_to.active_element.get_attribute("role") == "grid"
    press(Keys.ESCAPE)
    assert hash_of(browser) == ""
    browser.back()
    browser.back()
    assert hash_of(browser).startswith("h.0.attn.c_attn[t=3,")
    browser.back()
    assert hash_of(browser).startswith("h.0.attn.q[h=1,t=3,")


def hash_of(browser):
    return browser.execute_script("return decodeURIComponent(location.hash.slice(1))")


def text_of(browser, selector):
    return browser.find_element("css selector", selector).get_attribute("textContent")


@pytest.mark.parametrize("name", ["h.0.attn.q", "wte.weight", "logits", "ln_f.rstd",
                                  "h.1.ln_1.bias", "h.0.attn.weights.max"])  # fmt: skip
def test_arrows_and_ends_reach_every_corner(browser, at, name):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    at(name)
    grid = browser.find_element("id", "grid")
    rows, columns = (int(grid.get_attribute(f"aria-{x}count")) for x in ("row", "col"))

    def place():
        line = browser.find_element("css selector", '#grid [role="row"]')
        cell = line.find_element("css selector", '[role="gridcell"]')
        return tuple(map(int, (line.get_attribute("aria-rowindex"),
                               cell.get_attribute("aria-colindex"))))  # fmt: skip

    keys = ActionChains(browser)
    keys.key_down(Keys.CONTROL).send_keys(Keys.END).key_up(Keys.CONTROL).perform()
    assert place() == (rows, columns)
    ActionChains(browser).send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN).perform()
    assert place() == (rows, columns)
    ActionChains(browser).send_keys(Keys.HOME, Keys.ARROW_UP).perform()
    assert place() == (max(1, rows - 1), 1)
    box = "const b = document.getElementById('cell').getBoundingClientRect(), "
    box += "g = document.getElementById('grid').getBoundingClientRect(); "
    box += "return b.left >= g.left && b.right <= g.right + 4 && b.top >= g.top"
    assert browser.execute_script(box)  # the cursor is in sight


def test_a_click_opens_the_number_under_it(browser, at):
    from selenium.webdriver.common.action_chains import ActionChains

    at("h.2.attn.weights")
    grid = browser.find_element("id", "grid")
    cell = browser.find_element("id", "cell")
    x = cell.rect["x"] - grid.rect["x"] + cell.rect["width"] * 2.5
    y = cell.rect["y"] - grid.rect["y"] + cell.rect["height"] * 4.5
    offset = (x - grid.rect["width"] / 2, y - grid.rect["height"] / 2)
    mouse = ActionChains(browser).move_to_element_with_offset(grid, *map(int, offset))
    mouse.click().perform()
    assert hash_of(browser) == "h.2.attn.weights[h=0,t=4,s=2]"


def test_unknown_addresses_show_the_model(browser, at):
    for hash in ("nothing", "h.9.ln_1", "h.0.ln_1[t=99,c=0]", "h.0.ln_1[x=1]", "%"):
        at(hash)
        assert text(browser, "h1") == "Inside a language model"


# For everyone


VIEWS = ("", "h.1.attn.scores", "wte.weight", "h.1.mlp.out[t=5,c=7]", "token[t=2]",
         "h.0.attn.weights.max[h=0,t=4]", "next?top_p=0.6")  # fmt: skip


@pytest.mark.parametrize("width", [360, 768, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_every_width_and_both_colours(browser, page, width, dark):
    look(browser, width, 780, dark)
    axe = os.environ.get("NPGPT_AXE")
    for hash in VIEWS:
        open_page(browser, page, hash)
        theme = browser.execute_script("return document.documentElement.dataset.theme")
        assert theme == ("dark" if dark else "light")
        wide = (
            "const e = document.documentElement; return e.scrollWidth - e.clientWidth"
        )
        assert browser.execute_script(wide) <= 0, hash
        if axe:
            found = violations(browser, axe)
            assert not found, (hash, found)


def violations(browser, axe):
    """What axe-core has to say against the page."""
    browser.execute_script(Path(axe).read_text())
    found = browser.execute_async_script("""
        const done = arguments[0];
        const rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"];
        axe.run(document, {runOnly: [...rules, "best-practice"]})
          .then((result) => done(result.violations.map((one) =>
            [one.id, one.help, one.nodes.slice(0, 3).map((node) => node.html)])));
    """)
    return found


def test_the_theme_button_turns_colours(browser, at):
    at("h.0.attn.q")
    corner = """const canvas = document.querySelector("#grid canvas");
        return canvas.getContext("2d").getImageData(150, 40, 1, 1).data.join();"""
    before = browser.execute_script(corner)
    browser.find_element("id", "theme").click()
    assert (
        browser.execute_script("return document.documentElement.dataset.theme")
        == "dark"
    )
    assert browser.execute_script(corner) != before


def test_it_prints(browser, at):
    for hash in ("", "h.1.mlp.out[t=5,c=7]"):
        at(hash)
        printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
        assert base64.b64decode(printed["data"]).startswith(b"%PDF")


def test_it_is_quick(browser, at):
    at()
    first = browser.execute_script("return npgpt.firstPicture")
    assert 0 < first < 10_000  # a busy machine; alone it is under 500
    opened = browser.execute_script("""
        const times = [];
        for (const hash of ["h.1.mlp.out[t=5,c=7]", "logits[t=3,v=9]", "logits", ""]) {
          const start = performance.now();
          history.replaceState(null, "", "#" + hash);
          dispatchEvent(new HashChangeEvent("hashchange"));
          times.push(performance.now() - start);
        }
        return times;
    """)
    assert max(opened) < 5000, opened
    assert math.isfinite(first)


def test_a_notebook_shows_it_in_a_frame_of_its_own(browser, mini, tmp_path):
    from selenium.webdriver.support.wait import WebDriverWait

    cell = "h.0.attn.scores[h=1,t=2,s=1]"
    shown = make_page(mini, "The old king", cell=cell)._repr_html_()
    (tmp_path / "notebook.html").write_text(f"<!doctype html><body>{shown}</body>")
    browser.get((tmp_path / "notebook.html").as_uri())
    browser.switch_to.frame(0)
    try:
        ready = "return document.documentElement.dataset.ready"
        WebDriverWait(browser, 60, 0.02).until(lambda b: b.execute_script(ready))
        body = browser.find_element("tag name", "body")
        assert cell in body.text
        browser.execute_script("location.hash = 'h.0.attn.q'")
        WebDriverWait(browser, 10, 0.02).until(lambda b: cell not in body.text)
    finally:
        browser.switch_to.default_content()
