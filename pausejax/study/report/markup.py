"""HTML and SVG as text; all other text is escaped."""

import html


class Html(str):
  """Markup, which `join` and `tag` do not escape."""


def tag(name: str, /, *children: object, **attributes: object) -> Html:
  """Returns an element.

  Args:
    name: name of the element.
    *children: markup or plain text, concatenated.
    **attributes: class_ is "class", data_x is "data-x"; None omits the
      attribute, True omits its value.
  """
  spelled = "".join(
    _attribute(key.rstrip("_").replace("_", "-"), value)
    for key, value in attributes.items()
    if value is not None and value is not False
  )
  return Html(f"<{name}{spelled}>{join(*children)}</{name}>")


def void(name: str, /, **attributes: object) -> Html:
  """Returns an element that has no end tag, such as <input>."""
  return Html(tag(name, **attributes).removesuffix(f"</{name}>"))


def join(*children: object) -> Html:
  """Returns markup and escaped text, concatenated."""
  return Html(
    "".join(c if isinstance(c, Html) else html.escape(str(c)) for c in children)
  )


def html_table(
  caption: object, head: list, body: list[list], *, class_: str = ""
) -> Html:
  """Returns a table in a scrolling box; the first column is the row header."""
  rows = [
    tag("tr", tag("th", first, scope="row"), *(tag("td", c) for c in rest))
    for first, *rest in body
  ]
  heads = [tag("th", h, scope="col") for h in head]
  return scrolling(
    tag(
      "table",
      tag("caption", tag("span", caption)),
      tag("thead", tag("tr", *heads)),
      tag("tbody", *rows),
      class_=class_ or None,
    ),
    "table",
  )


def scrolling(child: Html, label: str) -> Html:
  """Returns a box that scrolls separately, also with the keyboard."""
  return tag(
    "div", child, class_="scroll", tabindex="0", role="region", aria_label=label
  )


def _attribute(name: str, value: object) -> str:
  if value is True:
    return f" {name}"
  return f' {name}="{html.escape(str(value))}"'
