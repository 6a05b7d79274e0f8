"""How the page of a plan looks: type and colours for light and dark screens and for print."""

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1f2328;--dim:#57606a;--rule:#d0d7de;
--band:#f6f8fa;--taken:#dff3e4;--step:#b7e4c3;--edge:#1a7f37}
@media screen and (prefers-color-scheme:dark){:root{--paper:#0d1117;--ink:#e6edf3;--dim:#9aa4af;
--rule:#30363d;--band:#161b22;--taken:#10281a;--step:#17492a;--edge:#56d364}}
body{margin:0;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,"Segoe UI",Roboto,"DejaVu Sans",Helvetica,Arial,sans-serif}
main{max-width:1000px;margin:0 auto;padding:24px 20px 60px}
h1{margin:0;font-size:26px}
h2{margin:36px 0 8px;font-size:19px}
h3{margin:28px 0 4px;font-size:16px}
p{margin:4px 0 12px;color:var(--dim)}
code{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,"DejaVu Sans Mono",monospace}
.time{white-space:nowrap}
.scroll,.drawing{overflow-x:auto}
.drawing svg{display:block;max-width:100%;min-width:720px;height:auto}
table{border-collapse:collapse;width:100%;margin:0 0 16px;font-size:14px}
th,td{text-align:left;vertical-align:top;padding:5px 12px 5px 8px;
border-bottom:1px solid var(--rule)}
th{color:var(--dim);font-weight:600;white-space:nowrap}
tr.taken td{background:var(--taken);font-weight:600}
tr.critical td:first-child{font-weight:700;box-shadow:inset 4px 0 var(--ink)}
a{color:inherit}
.source{list-style:none;margin:0;padding:8px 0;border:1px solid var(--rule);overflow-x:auto}
.source li{white-space:pre;padding:0 12px;border-left:4px solid transparent}
.source li.taken{background:var(--taken);border-color:var(--edge)}
.source li.step{background:var(--step);border-color:var(--edge);font-weight:600}
.source li:target{outline:2px solid var(--ink);outline-offset:-2px}
.source .number{display:inline-block;width:3ch;margin-right:16px;text-align:right;
color:var(--dim);font:13px ui-monospace,monospace;user-select:none}
@media print{.drawing svg{min-width:0}h2{break-after:avoid}.source li,tr,svg{break-inside:avoid}}
"""
