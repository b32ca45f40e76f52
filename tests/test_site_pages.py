"""What the build corrects in the pages of others."""

import re
import sys

import pandas as pd
import pytest
from docutils import nodes
from site_fixtures import ROOT

sys.path.insert(0, str(ROOT / "_ext"))

import book_math
import book_pages


def test_table_gets_scopes_a_name_and_a_box():
    frame = pd.DataFrame({"z": [2.1, None], "what": ["a quasar", "a star"]}, index=["first", "second"])
    page = book_pages.fix_page(frame.to_html() + frame.to_html())
    assert page.count('role="region" tabindex="0"') == 2
    assert 'aria-label="Table 1, scrolls sideways"' in page
    assert 'aria-label="Table 2, scrolls sideways"' in page
    assert '<th scope="col">z</th>' in page
    assert '<th scope="col" class="words">what</th>' in page
    assert '<th scope="row">first</th>' in page
    assert "<th></th>" not in page
    assert "<td>2.1</td>" in page
    assert '<td class="words">a quasar</td>' in page


def test_only_long_words_get_room_to_break():
    page = book_pages.fix_page(pd.DataFrame({"a": ["deg", "mag"], "b": ["short", 30 * "long "]}).to_html())
    assert '<th scope="col" class="words">a</th>' in page
    assert '<th scope="col" class="words long">b</th>' in page
    assert '<td class="words long">short</td>' in page


@pytest.mark.parametrize("value", ["1", "-1.5e-05", "12,345", "NaN", "&lt;NA&gt;", "True", ""])
def test_numbers_and_missing_values_are_no_words(value):
    assert book_pages.NUMBER.fullmatch(value)


@pytest.mark.parametrize("value", ["psfmag_u", "0.1 mag", "J2000", "2 + 2 b"])
def test_words_are_words(value):
    assert not book_pages.NUMBER.fullmatch(value)


def test_several_header_rows_keep_their_alignment():
    columns = pd.MultiIndex.from_product([["a"], ["b", "c"]])
    page = book_pages.fix_page(pd.DataFrame([[1, "x"]], columns=columns).to_html())
    assert 'scope="col" colspan="2"' in page
    assert '<td class="words">x</td>' in page


def test_correcting_twice_changes_nothing_more():
    frame = pd.DataFrame({"z": [2.1]})
    once = book_pages.fix_page(frame.to_html())
    assert book_pages.fix_page(once) == once


@pytest.mark.parametrize(
    ("formula", "parts"),
    [
        (r"X \sin\varphi", ["X", "_", "sin", "_", "φ"]),
        (r"2b \sinh(x)", ["2", "b", "_", "sinh", "(", "x", ")"]),
        (r"-\ln 10", ["−", "ln", "_", "10"]),
        (r"\mathrm{SF}_\infty", ["SF", "∞"]),
    ],
)
def test_formula_leaves_room_around_the_name_of_a_function(formula, parts):
    written = book_math.mathml(nodes.math("", formula), as_block=False).replace("&ApplyFunction;", "")
    found = re.findall(r"(?:<mspace[^>]*>)|>([^<\s]+)<", written)
    assert [part or "_" for part in found] == parts


@pytest.mark.parametrize(
    ("formula", "slanted"),
    [(r"\Delta t", ["t"]), (r"\mathrm{SF}_\infty", []), (r"R\,\tan\zeta", ["R", "ζ"]), ("2^{53}", [])],
)
def test_one_letter_is_slanted_and_a_word_is_not(formula, slanted):
    written = book_math.mathml(nodes.math("", formula), as_block=False)
    assert re.findall(r'class="slanted">(.)<', written) == slanted
    assert "<mi>" not in written, "browsers would slant it in their own way"
