// What is wrong with the page as it is shown, a line for each fault.
(() => {
  const faults = [];
  // Not innerWidth: on a phone it grows with what is too wide.
  const screenWidth = document.documentElement.clientWidth || innerWidth;
  const isPhone = screenWidth < 500;
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  const isShown = (element) => element.getClientRects().length > 0 && getComputedStyle(element).visibility === "visible";
  const all = (selector, within = document) => [...within.querySelectorAll(selector)].filter(isShown);
  const box = (element) => element.getBoundingClientRect();

  // ---- the page as a whole ----
  const width = document.documentElement.scrollWidth;
  if (document.contentType === "text/html" && width > screenWidth)
    faults.push(`the page is ${width} pixels wide and scrolls sideways`);
  if (!/\d{4}-\d\d-\d\d/.test(document.documentElement.textContent)) faults.push("there is no date");

  // ---- colours ----
  const rgba = (words) => {
    const [r, g, b, a = 1] = words.match(/[\d.]+/g).map(Number);
    return { r, g, b, a };
  };
  const luminance = ({ r, g, b }) => {
    const [x, y, z] = [r, g, b].map((part) => {
      const share = part / 255;
      return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const background = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour.a === 1) return colour;
    }
    return { r: 255, g: 255, b: 255, a: 1 };
  };
  const contrast = (one, other) => {
    const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  if (luminance(background(document.body ?? document.documentElement)) < 0.5 !== isDark)
    faults.push("the background does not suit the mode of the screen");
  const hasWords = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  for (const element of all("body *, svg text")) {
    const isDrawing = element instanceof SVGElement;
    if (!hasWords(element) || (isDrawing && element.tagName !== "text")) continue;
    const style = getComputedStyle(element);
    const found = contrast(rgba(isDrawing ? style.fill : style.color), background(element));
    if (found < 4.5) faults.push(`contrast of ${found.toFixed(1)}: ${element.textContent}`);
  }
  // A flame graph knows one mode; its frame has to know both.
  if (document.body) {
    const frame = document.body.appendChild(document.createElement("iframe"));
    if ((getComputedStyle(frame).filter !== "none") !== isDark) faults.push("frames do not suit the mode of the screen");
    frame.remove();
  }

  // ---- plots ----
  const isUnit = /\d ?(ns|µs|ms|s|%|\/s|k\/s|M\/s)$|seconds|per (second|request)|multiple of|connections|lives/m;
  const headings = all("h1, h2, h3");
  const plots = all("svg").filter((plot) => !plot.querySelector("svg"));
  for (const plot of plots) {
    const name = plot.getAttribute("aria-label") ?? document.title;
    const texts = all("text", plot);
    const above = headings.filter((heading) => heading.compareDocumentPosition(plot) & Node.DOCUMENT_POSITION_FOLLOWING);
    const title = document.body ? above.at(-1)?.textContent : document.querySelector("text")?.textContent;
    if (!title || (document.body && title !== name)) faults.push(`a plot has no title: ${name}, below ${title}`);
    const said = plot.previousElementSibling?.textContent ?? "";
    if (![said, ...texts.map((text) => text.textContent.trim())].some((words) => isUnit.test(words)))
      faults.push(`${name}: no unit`);
    const inside = box(plot);
    texts.forEach((text, index) => {
      const words = text.textContent.trim();
      const size = parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a;
      const upright = Math.hypot(text.getScreenCTM().a, text.getScreenCTM().b);
      const height = size > 0.1 ? size : parseFloat(getComputedStyle(text).fontSize) * upright;
      if (isPhone && document.body && height < 9) faults.push(`${name}: ${words} is ${height.toFixed(1)} pixels high`);
      const place = box(text);
      if (place.left < inside.left - 1 || place.right > inside.right + 1 || place.top < inside.top - 3)
        faults.push(`${name}: ${words} is cut off`);
      for (const other of texts.slice(index + 1)) {
        const at = box(other);
        // A box is a little higher than its letters.
        const across = Math.min(place.right, at.right) - Math.max(place.left, at.left);
        const down = Math.min(place.bottom, at.bottom) - Math.max(place.top, at.top);
        if (across > 0 && down > 3) faults.push(`${name}: ${words} and ${other.textContent.trim()} overlap`);
      }
    });
  }

  // ---- tables ----
  for (const around of all(".wide")) {
    around.scrollLeft = 99999;
    const first = around.querySelector("tr:last-child > th:first-child");
    if (isPhone && around.scrollLeft > 0 && Math.abs(box(first).left - box(around).left) > 1)
      faults.push(`the names of a table are scrolled away: ${first.textContent}`);
    around.scrollLeft = 0;
  }
  return { faults, plots: plots.length };
})()
