"""The catalogue: one recipe per paper, each with the facts that `list`, `show` and BibTeX need."""

from collections import defaultdict
from pathlib import Path

import pytest
import yaml

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
PAPERS = 349

# taxonomy paths that may head an entry of each folder
FAMILIES = {
    "hashing_unsupervised_shallow": "hashing/unsupervised/shallow",
    "hashing_unsupervised_deep": "hashing/unsupervised/deep",
    "hashing_supervised_shallow": "hashing/supervised/shallow",
    "hashing_supervised_deep": "hashing/supervised/deep",
    "real_unsupervised": "real-valued/unsupervised",
    "real_supervised_shallow": "real-valued/supervised/shallow",
    "real_supervised_deep": "real-valued/supervised/deep",
    "image_text_matching": "real-valued/matching",
    "vision_language": "vision-language",
    "scenarios": "scenario",
    "adjacent": "adjacent",
}


@pytest.fixture(scope="module")
def papers():
    """Every recipe's paper block by key: {key: (family, paper)}."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found = defaultdict(list)
    for path in sorted(RECIPES.glob("*/*.yaml")):
        if path.parent.name != "datasets":
            recipe = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
            found[path.stem].append((path.parent.name, recipe["paper"]))
    repeated = {key: [family for family, _ in entries] for key, entries in found.items() if len(entries) > 1}
    assert not repeated, f"keys in more than one folder: {repeated}"
    return {key: entries[0] for key, entries in found.items()}


def test_every_catalogued_paper_has_a_recipe(papers):
    assert len(papers) == PAPERS


def test_keys_are_lower_case_slugs(papers):
    assert [key for key in papers if key != key.lower() or not key.replace("-", "").isalnum()] == []


def test_every_family_folder_is_known(papers):
    assert {family for family, _ in papers.values()} == set(FAMILIES)


def test_the_first_taxonomy_path_belongs_to_the_folder(papers):
    def belongs(family, path):
        return path == FAMILIES[family] or path.startswith(FAMILIES[family] + "/")

    stray = [key for key, (family, paper) in papers.items() if not belongs(family, paper["taxonomy"][0])]
    assert stray == []


@pytest.mark.parametrize("field", ["acronym", "title", "venue", "url"])
def test_every_paper_states(papers, field):
    missing = [key for key, (_, paper) in papers.items() if not str(paper.get(field, "")).strip()]
    assert missing == []


def test_years_are_integers_of_this_century(papers):
    wrong = {
        key: paper.get("year")
        for key, (_, paper) in papers.items()
        if type(paper.get("year")) is not int or not 2000 <= paper["year"] <= 2026
    }
    assert wrong == {}


def test_no_two_entries_share_a_title_unless_noted(papers):
    by_title = defaultdict(list)
    for key, (_, paper) in papers.items():
        by_title["".join(filter(str.isalnum, paper["title"].lower()))].append(key)
    shared = [keys for keys in by_title.values() if len(keys) > 1]
    unexplained = [
        keys
        for keys in shared
        if sum("title" in " ".join(papers[key][1].get("notes", [])).lower() for key in keys) < len(keys) - 1
    ]
    assert unexplained == []


def test_unsettled_fields_are_explained(papers):
    silent = [key for key, (_, paper) in papers.items() if paper.get("unsettled") and not paper.get("notes")]
    assert silent == []


def test_links_are_urls_and_dois_are_bare(papers):
    for key, (_, paper) in papers.items():
        assert paper["url"].startswith(("https://", "http://")), key
        assert paper.get("doi", "10.").startswith("10."), key


def test_adjacent_work_is_kept_apart_and_says_what_it_is(papers):
    adjacent = {key: paper for key, (family, paper) in papers.items() if family == "adjacent"}
    assert len(adjacent) == 7
    assert [key for key, paper in adjacent.items() if paper["taxonomy"] != ["adjacent"]] == []
    assert [key for key, paper in adjacent.items() if not paper.get("notes")] == []
