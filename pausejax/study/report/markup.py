"""HTML and SVG as text, escaped unless it was made here."""

import html


class Html(str):
  """Markup; every other text is escaped where it meets markup."""


def tag(name: str, /, *children: object, **attributes: object) -> Html:
  """Returns an element.

  Args:
    name: of the element.
    *children: markup or plain text, one after another.
    **attributes: class_ is "class", data_x is "data-x"; None leaves it out,
      True leaves out its value.
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
  """Returns markup and escaped text, one after another."""
  return Html(
    "".join(c if isinstance(c, Html) else html.escape(str(c)) for c in children)
  )


def table(
  caption: object, head: list, body: list[list], *, class_: str = ""
) -> Html:
  """Returns a table in a box that scrolls; the first column heads its rows."""
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
  """Returns a box that scrolls by itself, with the keyboard too."""
  return tag(
    "div", child, class_="scroll", tabindex="0", role="region", aria_label=label
  )


def _attribute(name: str, value: object) -> str:
  if value is True:
    return f" {name}"
  return f' {name}="{html.escape(str(value))}"'
