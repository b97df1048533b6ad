"""The site: its Python runs, it builds without warnings, and all its links exist."""

import html.parser
import math
import os
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest

import mdsens
from blocks import blocks, links, run

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
WITH_PYTHON = [page for page in sorted(DOCS.glob("*.md")) if blocks(page.read_text(encoding="utf-8"), "python")]
MODULES = ("linear_solvers", "plotting", "potentials", "properties", "studies", "uncertainty")
"""Public modules that list their public names."""


class Page(html.parser.HTMLParser):
    """The link targets and the anchors of a page of the site."""

    def __init__(self, path):
        super().__init__()
        self.targets, self.ids = set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("href", "src") and value is not None:
                self.targets.add(value)
            elif name == "id" or (tag == "a" and name == "name"):
                self.ids.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    options = ["-W", "--keep-going", "-n", "-q", "-d", str(folder / "doctrees")]
    command = [sys.executable, "-m", "sphinx", *options, str(DOCS), str(folder / "html")]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"}, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html") if "_static" not in path.relative_to(site).parts}


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.stem)
def test_the_python_of_a_page_runs(page):
    names = run(page)
    if page.name == "guide.md":
        assert math.isfinite(names["dK_deps"]) and names["many"].energy.shape == (20,)


def test_the_site_has_a_page_for_every_source_and_notebook(site):
    sources = [path.relative_to(DOCS) for path in [*DOCS.glob("*.md"), *(DOCS / "api").glob("*.md")]]
    sources += [Path("notebooks", path.name) for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")]
    assert not [source for source in sources if not (site / source).with_suffix(".html").is_file()]


def test_every_link_of_the_site_leads_somewhere(site, pages):
    broken = []
    for path, page in pages.items():
        for target in page.targets:
            url = urllib.parse.urlsplit(target)
            if url.scheme or url.netloc:
                continue
            there = (path.parent / urllib.parse.unquote(url.path)).resolve() if url.path else path
            there = there / "index.html" if there.is_dir() else there
            fragment = urllib.parse.unquote(url.fragment)
            if not there.is_file() or (fragment and there in pages and fragment not in pages[there].ids):
                broken.append(f"{path.relative_to(site)}: {target}")
    assert not broken
    assert sum(len(page.targets) for page in pages.values()) > 100


def test_every_public_name_has_its_place_in_the_reference(pages):
    documented = set().union(*(page.ids for page in pages.values()))
    names = {f"mdsens.{name}" for name in mdsens.__all__ if name not in mdsens._PUBLIC_MODULES}
    listed = {(module, name) for module in MODULES for name in getattr(mdsens, module).__all__}
    names |= {f"mdsens.{module}.{name}" for module, name in listed if not name.isupper()}
    of_package = {name.rpartition(".")[2] for name in documented if name.count(".") == 1}
    assert not {name for name in names - documented if name.rpartition(".")[2] not in of_package}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_every_link_to_a_file_leads_somewhere(name):
    broken = [target for target in links((ROOT / name).read_text(encoding="utf-8")) if not (ROOT / target).exists()]
    assert not broken
