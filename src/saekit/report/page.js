// Reads the data embedded in the page and draws it.

const TITLES = {
  loss: "Loss", fvu: "FVU (ratio)", l0: "L0 (latents per token)", dead: "Dead latents",
  lr: "Learning rate", tokens_per_second: "Speed (tokens per second)",
};

function drawCurves(host, curves) {
  const known = Object.keys(TITLES).filter((name) => curves[name]);
  const drawn = known.map((name) => {
    const terms = Object.entries(curves.terms);
    const split = name === "loss" && terms.length > 1;
    const series = [{ name: "total", values: curves[name] }];
    if (split) for (const [term, values] of terms) series.push({ name: term, values });
    return lineChart(host, TITLES[name], curves.tokens, series, "training tokens");
  });
  return () => drawn.forEach((draw) => draw());
}

function main() {
  const data = JSON.parse(document.getElementById("data").textContent);
  const drawn = [];
  const curves = document.getElementById("curves");
  if (curves) drawn.push(drawCurves(curves, data.curves));
  const histogram = document.getElementById("histogram");
  if (histogram) {
    drawn.push(histogramChart(histogram, data.histogram.log10_edges, data.histogram.latents));
  }
  const draw = () => drawn.forEach((one) => one());
  draw();
  let width = innerWidth, timer;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(timer);
    timer = setTimeout(draw, 100);
  });
  const browser = document.getElementById("browser");
  if (browser) new Browser(browser, data.latents);
}

main();
