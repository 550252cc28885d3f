// Elements without markup, and tokens as they are shown.

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

// What a reader sees of a token; an empty one is the rest of a character before it.
function visible(token) {
  const escaped = (c) => "\\x" + c.charCodeAt(0).toString(16).padStart(2, "0");
  return token.replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/[\x00-\x1f\x7f]/g, escaped);
}
