"""Every file once, nothing left out without a word."""

import gzip
import os

import pytest

from pausejax import errors
from pausejax.tasks import corpora, file_lists


def write(folder, *names):
  """Makes files whose content is their name."""
  for name in names:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    data = name.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


def listed(spec):
  """Returns the names of the files, and what is left out as one text."""
  found = file_lists.expand(str(spec))
  names = [os.path.basename(f) for f in found.files]
  return names, "; ".join(file_lists.left_out_reasons(found.left_out))


def refused(spec) -> str:
  with pytest.raises(errors.UserError) as raised:
    file_lists.expand(str(spec))
  assert "\n" not in str(raised.value)
  return str(raised.value)


def test_folders_globs_and_lists_name_the_same_files(tmp_path):
  write(tmp_path, "0.txt", "1.txt", "2.txt")
  names = [str(tmp_path / f"{i}.txt") for i in range(3)]
  for spec in (
    str(tmp_path),
    f"{tmp_path}/*.txt",
    ",".join(reversed(names)),
    ", ".join(names) + ",",
  ):
    assert file_lists.expand(spec) == file_lists.FileList(tuple(names), {})


def test_a_double_star_matches_every_subfolder(tmp_path):
  write(tmp_path, "x.txt", "a/x.txt", "a/b/x.txt")
  names, left_out = listed(f"{tmp_path}/**/*")
  assert names == ["x.txt"] * 3 and not left_out


@pytest.mark.parametrize("name", ["part[1]?.txt", "a,b.txt", "a b.txt"])
def test_a_file_may_have_any_name(tmp_path, name):
  write(tmp_path, name)
  assert listed(tmp_path / name)[0] == [name]


def test_skipped_files_are_counted_by_reason(tmp_path):
  write(tmp_path, "a.txt", "sub/b.txt", "old.txt/c.txt", "README.txt")
  write(tmp_path, "LICENSE.txt", "README.md", "Licence.en.txt.gz", "t.parquet")
  write(tmp_path, *(f"{i}.jsonl.zst" for i in range(5)))
  (tmp_path / "nothing.txt").touch()
  names, left_out = listed(tmp_path)
  assert names == ["a.txt"]
  for fragment in (
    "2 left out that are subfolders; FOLDER/**/* matches all files below one: "
    "old.txt, sub",
    "3 left out that describe the corpus",
    "LICENSE.txt, Licence.en.txt.gz, README.txt",
    "2 left out that have an unknown type",
    "README.md, t.parquet",
    "5 left out that are .zst, which is not read (`zstd -d FILE` decompresses "
    "it): 0.jsonl.zst, 1.jsonl.zst, 2.jsonl.zst, ...",
    "1 left out that are empty: nothing.txt",
  ):
    assert fragment in left_out


def test_a_folder_without_readable_files_lists_its_files(tmp_path):
  write(tmp_path, "README.txt", "a.jsonl.zst", "sub/b.txt")
  message = refused(tmp_path)
  assert "nothing to read at" in message and str(tmp_path) in message
  for name in ("README.txt", "a.jsonl.zst", "sub"):
    assert name in message


def test_a_glob_skips_the_same_files_as_a_folder(tmp_path):
  write(tmp_path, "a.txt", "README.txt", "sub.txt/b.txt")
  (tmp_path / "e.txt").touch()
  assert listed(f"{tmp_path}/*.txt") == listed(tmp_path)


def test_a_file_about_the_corpus_is_read_if_it_is_named(tmp_path):
  write(tmp_path, "README.txt", "readme.jsonl")
  assert listed(tmp_path / "README.txt") == (["README.txt"], "")
  assert listed(tmp_path)[0] == ["readme.jsonl"]


@pytest.mark.parametrize(
  ("one", "two"),
  [
    ("p.jsonl", "p.jsonl.gz"),
    ("p.txt", "p.txt.gz"),
    ("p.json", "p.jsonl"),
    ("p.json.gz", "p.jsonl"),
  ],
)
def test_the_same_data_by_two_names_is_an_error(tmp_path, one, two):
  write(tmp_path, one, two, "q.txt", "q.jsonl")
  for spec in (
    tmp_path,
    f"{tmp_path}/p*",
    f"{tmp_path}/{one},{tmp_path}/{two}",
  ):
    message = refused(spec)
    assert str(tmp_path / one) in message and str(tmp_path / two) in message
  assert listed(f"{tmp_path}/{one},{tmp_path}/q*")[0] == [
    one,
    "q.jsonl",
    "q.txt",
  ]


def test_files_of_one_name_in_two_folders_are_two(tmp_path):
  write(tmp_path, "a/p.jsonl", "b/p.jsonl.gz")
  assert len(listed(f"{tmp_path}/a,{tmp_path}/b")[0]) == 2


def test_a_file_is_read_once_however_often_it_is_named(tmp_path):
  write(tmp_path, "a.txt", "b.txt")
  spec = f"{tmp_path},{tmp_path}/a.txt,{tmp_path}/*.txt"
  assert listed(spec) == (["a.txt", "b.txt"], "")


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_is_not_a_second_file(tmp_path, link):
  write(tmp_path, "a.txt", "b.txt")
  link(tmp_path / "a.txt", tmp_path / "c.txt")
  names, left_out = listed(tmp_path)
  assert names == ["a.txt", "b.txt"]
  assert left_out == "1 left out that are listed under another name: c.txt"


def test_a_linked_folder_holds_the_same_files(tmp_path):
  write(tmp_path, "real/a.txt")
  (tmp_path / "linked").symlink_to(tmp_path / "real")
  assert listed(f"{tmp_path}/real,{tmp_path}/linked")[0] == ["a.txt"]
  assert listed(tmp_path / "linked") == (["a.txt"], "")


def test_a_link_to_nothing_is_an_error(tmp_path):
  write(tmp_path, "a.txt")
  (tmp_path / "b.txt").symlink_to(tmp_path / "gone")
  assert "b.txt: is a link to a file that does not exist" in refused(tmp_path)


def test_a_kind_that_is_not_read_is_an_error_if_it_is_named(tmp_path):
  write(tmp_path, "a.jsonl.zst")
  message = refused(tmp_path / "a.jsonl.zst")
  assert "unknown type of file" in message and "zstd -d" in message
  assert "NUL" in refused("a\0b")


def source(train, validation):
  return corpora.FileSource(
    train=str(train), validation=str(validation), field="text", holdout_every=2
  )


def test_held_out_files_are_not_trained_on_by_any_name(tmp_path):
  write(tmp_path, "a.txt", "b.txt", "c.txt")
  (tmp_path / "held").mkdir()
  (tmp_path / "held" / "x.txt").symlink_to(tmp_path / "b.txt")
  found = source(tmp_path, tmp_path / "held")
  assert list(found.documents("train")) == ["a.txt", "c.txt"]
  assert list(found.documents("validation")) == ["b.txt"]
  left_out = "; ".join(file_lists.left_out_reasons(found.left_out()))
  assert "1 left out that are data.validation_files: b.txt" in left_out


def test_held_out_files_may_not_be_trained_on_decompressed(tmp_path):
  write(tmp_path, "a.jsonl", "held.jsonl", "held.jsonl.gz")
  with pytest.raises(
    errors.UserError, match=r"held\.jsonl and .*held\.jsonl\.gz"
  ):
    source(
      f"{tmp_path}/a.jsonl,{tmp_path}/held.jsonl", f"{tmp_path}/held.jsonl.gz"
    ).units()
