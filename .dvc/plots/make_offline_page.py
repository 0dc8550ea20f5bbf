"""Write offline.html, the page around `dvc plots`: Vega's libraries stand in it, so that charts show without internet.

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
td img { max-width: 100% }
footer { color: #666; margin-top: 2rem }
</style>
</head>
<body>
{plot_divs}
<footer>For research, not for diagnosis.</footer>
</body>
</html>
"""

if __name__ == "__main__":
    bundle = vl_convert.javascript_bundle(vl_version="5.21")
    if "</script" in bundle:
        raise SystemExit("the bundle holds a closing script tag and would break the page")
    Path(__file__).with_name("offline.html").write_text(PAGE.replace("@BUNDLE@", bundle), encoding="utf-8")
