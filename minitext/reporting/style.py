"""The style sheet of the page that compares runs: light and dark, wide and narrow, screen and paper.

Colours are those of Okabe & Ito 2008; on dark ground the darker ones are lightened, so that all keep a contrast of 3 to
1 at least against it. A word's colour is its `--c`, from -1 to 1: blue for the prediction, striped orange against it.
"""

STYLE = """
:root {
  --page: #f6f6f3; --card: #fff; --ink: #1b1c1e; --soft: #5b5f66; --rule: #dcdcd6; --faint: #ecece7;
  --s0: #0072b2; --s1: #d55e00; --s2: #008a66; --s3: #b0518c; --s4: #1f8fc4; --s5: #b87900;
  --for: 0 114 178; --against: 213 94 0; --good: #00664b; --bad: #a94400;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #131416; --card: #1c1e21; --ink: #e9e9e6; --soft: #a5a9b0; --rule: #3a3d42; --faint: #292c30;
    --s0: #4da3dd; --s1: #f08040; --s2: #2bbd91; --s3: #dd8fbd; --s4: #7cc7f0; --s5: #e8a93a;
    --for: 77 163 221; --against: 240 128 64; --good: #2bbd91; --bad: #f08040;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; max-width: 1120px; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", "DejaVu Sans", sans-serif;
}
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .25rem; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 0 0 .25rem; }
h3 { font-size: 1rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
p { margin: .25rem 0 .75rem; max-width: 46rem; }
.soft, figcaption { color: var(--soft); }
section {
  background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 1.1rem 1.25rem 1.25rem;
  margin-top: 1.25rem;
}
ul.verdict { margin: 1rem 0 0; padding: 0; list-style: none; font-size: 1.05rem; max-width: 52rem; }
ul.verdict li { margin: .3rem 0; padding-left: .9rem; border-left: 3px solid var(--rule); }
ul.verdict li.lead { border-color: var(--s2); }
.run { font-weight: 600; white-space: nowrap; }
.key { vertical-align: -1px; margin-right: .4em; flex: none; }
.wide-table { overflow-x: auto; margin: .5rem -.25rem 0; padding: 0 .25rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .5rem .75rem .5rem 0; border-top: 1px solid var(--rule); vertical-align: top; }
thead th { border-top: 0; color: var(--soft); font-weight: 500; font-size: .85rem; vertical-align: bottom; }
tbody th { font-weight: 600; }
.interval { display: block; color: var(--soft); font-size: .8rem; white-space: nowrap; }
td.best b::after { content: " \\2605"; color: var(--s5); font-size: .8em; }
td { white-space: nowrap; }
.flag, .interval.flag { color: var(--bad); font-weight: 600; }
.sure { color: var(--good); font-weight: 600; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 310px), 1fr)); gap: 1.25rem 1.5rem; }
.grid div > figure + figure { margin-top: .75rem; }
.grid.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 215px), 1fr)); }
figure { margin: 0; }
svg { max-width: 100%; height: auto; display: block; overflow: visible; }
svg.key { display: inline-block; max-width: none; }
svg.whisker { margin-top: .15rem; }
svg.wide { width: 100%; max-width: 540px; }
svg text { fill: var(--soft); font-size: 12px; font-family: inherit; }
svg text.in { fill: var(--ink); }
svg text.name { fill: var(--ink); font-weight: 600; font-size: 12.5px; }
line.grid { stroke: var(--rule); stroke-width: 1; }
line.zero { stroke: var(--soft); stroke-width: 1; }
line.ideal, line.kept { stroke: var(--soft); stroke-width: 1.25; stroke-dasharray: 5 4; }
line.kept { stroke-dasharray: 1.5 3; }
.bar { stroke: currentColor; stroke-width: 1.8; fill: none; stroke-linejoin: round; stroke-linecap: round; }
.dashed { stroke-dasharray: 5 4; opacity: .75; }
.mark { fill: currentColor; }
.mark .hollow { fill: none; stroke: currentColor; stroke-width: 2; }
.cell { fill: currentColor; }
.s0 { color: var(--s0); } .s1 { color: var(--s1); } .s2 { color: var(--s2); }
.s3 { color: var(--s3); } .s4 { color: var(--s4); } .s5 { color: var(--s5); }
.text { border-top: 1px solid var(--rule); padding: 1rem 0; }
.text:first-of-type { border-top: 0; padding-top: .5rem; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 310px), 1fr)); gap: .75rem 1.5rem; }
.words {
  max-height: 17rem; overflow-y: auto; white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.75;
  background: var(--page); border-radius: 6px; padding: .5rem .75rem; margin-top: .35rem;
}
.w {
  border-radius: 3px; padding: .1em 0;
  background:
    linear-gradient(rgb(var(--for) / calc(var(--c) * .6)) 0 0),
    repeating-linear-gradient(-45deg, rgb(var(--against) / calc(var(--c) * -.75)) 0 2px,
      rgb(var(--against) / calc(var(--c) * -.3)) 2px 5px);
  -webkit-print-color-adjust: exact; print-color-adjust: exact;
}
.unseen { text-decoration: underline dotted var(--soft); text-underline-offset: 3px; }
code { font: 13px/1.5 ui-monospace, "Liberation Mono", "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
dl { margin: .5rem 0 0; } dt { margin-top: .6rem; } dd { margin: 0; }
@media (max-width: 640px) {
  body { padding: 1.25rem .75rem 3rem; font-size: 15px; }
  section { padding: .9rem .9rem 1rem; }
  .grid.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 145px), 1fr)); gap: 1rem; }
  table.cards thead { display: none; }
  table.cards tr { display: grid; grid-template-columns: 1fr 1fr; gap: .5rem 1rem; padding: .8rem 0;
    border-top: 1px solid var(--rule); }
  table.cards tbody tr:first-child { border-top: 0; }
  table.cards th, table.cards td { display: block; border: 0; padding: 0; white-space: normal; min-width: 0; }
  table.cards th { grid-column: 1 / -1; }
  table.cards td::before { content: attr(data-label); display: block; color: var(--soft); font-size: .8rem; }
}
@media print {
  :root { --page: #fff; --card: #fff; --ink: #000; --soft: #444; --rule: #bbb; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  section { border: 0; padding: 0; break-inside: auto; }
  figure, p, .text, tr { break-inside: avoid; }
  h2, h3, section > p { break-after: avoid; }
  table { font-size: 8.5pt; } .interval { font-size: 7.5pt; }
  .grid.small { grid-template-columns: repeat(auto-fill, minmax(145px, 1fr)); gap: 1rem; }
  .words { max-height: none; overflow: visible; border: 1px solid var(--rule); }
  .wide-table { overflow: visible; }
  .cell { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
"""
