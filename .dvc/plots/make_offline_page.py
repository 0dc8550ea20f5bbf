"""Write offline.html, the page around `dvc plots`: Vega's libraries stand in it, so that charts show without internet.

Two revisions' pictures are side by side from a window of 1,050 pixels on; a click makes one as wide as the window.

Run from the project's root after renewing vl-convert-python: `python .dvc/plots/make_offline_page.py`.
"""

from pathlib import Path

import vl_convert

# DVC's own templates are written in Vega-Lite 5; the page leaves out DVC's {scripts}, which would load from a CDN.
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{refresh_tag}
<title>tumorboard: plots</title>
<!-- Vega, Vega-Lite and Vega-Embed: (c) University of Washington Interactive Data Lab and contributors, BSD-3-Clause;
     the licence is in .dvc/plots/vega-license.txt. -->
<script>(function(){@BUNDLE@})();
(function(){
  var embed = window.vegaEmbed;
  var actions = {export: true, source: false, compiled: false, editor: false};
  window.vegaEmbed = function(element, spec, options) {
    return embed(element, spec, Object.assign({actions: actions}, options || {}));
  };
})();
</script>
<style>
body { font-family: system-ui, sans-serif; margin: 2rem; color: #222 }
table { border-spacing: 15px }
/* DVC puts the pictures of all revisions into one row that does not break: here two share the width of the window. */
div:has(> div > img) { display: flex; flex-wrap: wrap; gap: 8px; margin: 8px 0; padding: 8px; overflow: visible; }
div:has(> div > img) { border: 1px solid #ccc !important; white-space: normal !important; }
div:has(> div > img) > p { flex: 1 0 100%; margin: 0; font-weight: 600; text-align: left }
div:has(> img) { flex: 1 1 480px; min-width: 0; margin: 0 !important; border: 0 !important; }
div:has(> img) > p { margin: 4px 0; color: #666; text-align: left }
div:has(> img.whole) { flex: 1 0 100%; }
img { display: block; max-width: 100%; height: auto; cursor: zoom-in; }
img.whole { cursor: zoom-out; }
footer { color: #666; margin-top: 2rem }
</style>
</head>
<body>
{plot_divs}
<script>
for (const picture of document.images)
  picture.addEventListener("click", () => picture.classList.toggle("whole"));
</script>
<footer>For research, not for diagnosis.</footer>
</body>
</html>
"""

if __name__ == "__main__":
    bundle = vl_convert.javascript_bundle(vl_version="5.21")
    if "</script" in bundle:
        raise SystemExit("the bundle holds a closing script tag and would break the page")
    Path(__file__).with_name("offline.html").write_text(PAGE.replace("@BUNDLE@", bundle), encoding="utf-8")
