// Elements of a page.

/** An element with attributes, listeners (on...) and children, of which null and false are left out. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== false));
  return made;
}

/** The sheet that this pack's elements are styled by, to be put beside them. */
export function styleSheet() {
  return element("link", { rel: "stylesheet", href: new URL("./panel.css", import.meta.url) });
}

/** Bytes as a person reads them. */
export function mib(bytes) {
  return `${Math.round(bytes / 2 ** 20).toLocaleString()} MiB`;
}
