"""The pages' templates. They work without scripts; nothing is loaded from elsewhere."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.45 system-ui,sans-serif;max-width:80rem;margin:0 auto;padding:1rem}
nav a{margin-right:1rem}
table{border-collapse:collapse;width:100%;margin:1rem 0}
th,td{text-align:left;vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid #8886;overflow-wrap:anywhere}
.state,.light{font-weight:bold;white-space:nowrap}.green{color:#0b7a2a}.amber{color:#a06000}.red{color:#c00000}
.done{color:#0b7a2a}.failed,.error{color:#c00000}.warning{color:#a06000}
progress{width:12rem}
"""

TEMPLATES = {
    "base.html": """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
{% if refresh %}<meta http-equiv="refresh" content="{{ refresh }}">{% endif %}
<title>{{ title }} · regraft</title><link rel="stylesheet" href="/ui/style.css"></head>
<body><nav aria-label="Main"><a href="/">Images</a><a href="/ui/jobs">Jobs</a><a href="/ui/targets">Targets</a>
<a href="/ui/rehearsals">Rehearsals</a></nav>
<main><h1>{{ title }}</h1>{% block body %}{% endblock %}</main></body></html>
""",
    "images.html": """{% extends "base.html" %}{% block body %}
<p>Depot {{ depot_id }}, key <code>{{ public_key }}</code></p>
{% for machine, rows in machines %}<h2 id="{{ machine }}">{{ machine }}</h2>
<table><thead><tr><th scope="col">Image</th><th scope="col">Host</th><th scope="col">Volumes</th>
<th scope="col">Contents</th><th scope="col">Stored</th><th scope="col">Profile</th></tr></thead><tbody>
{% for image in rows %}<tr><td>{{ image.machine }}@{{ image.time }}</td><td>{{ image.hostname }}</td>
<td>{{ image.volumes|join(", ") }}</td><td>{{ image.content_bytes|size }}</td><td>{{ image.stored_bytes|size }}</td>
<td><a href="/machines/{{ image.machine }}/profiles/{{ image.profile_time }}.xml">{{ image.profile_time }}</a></td></tr>
{% endfor %}</tbody></table>
{% else %}<p>No images yet; make one with <code>regraft capture</code>.</p>{% endfor %}
<h2>Components</h2>
{% if components %}<ul>{% for each in components %}
<li>{{ each.id }} {{ each.version }} ({{ each.kind }})</li>{% endfor %}
</ul>{% else %}<p>None; add some with <code>regraft component add</code>.</p>{% endif %}
{% endblock %}""",
    "jobs.html": """{% extends "base.html" %}{% block body %}
<table><thead><tr><th scope="col">Job</th><th scope="col">State</th><th scope="col">Image</th><th scope="col">For</th>
<th scope="col">Disk</th><th scope="col">Where it is</th><th scope="col">Last sign of life</th></tr></thead><tbody>
{% for job in jobs %}<tr><td><a href="/ui/jobs/{{ job.id }}">{{ job.id }}</a></td>
<td class="state {{ job.state }}">{{ job.state|sign }} {{ job.state }}</td><td>{{ job.image }} ({{ job.mode }})</td>
<td>{{ job.match|matching }}</td><td>{{ job.disk }}</td><td>{{ job.phase }} {{ job.message|clean }}</td>
<td>{{ job.last_seen }}</td></tr>
{% else %}<tr><td colspan="7">No jobs yet.</td></tr>{% endfor %}</tbody></table>
{% endblock %}""",
    "job.html": """{% extends "base.html" %}{% block body %}
<p class="state {{ job.state }}">{{ job.state|sign }} {{ job.state|upper }}{% if job.message %}: {{ job.message|clean }}
{% endif %}</p>
{% if job.total %}<p><progress max="{{ job.total }}" value="{{ job.done }}"></progress> {{ job.phase }}:
{{ job.done }} of {{ job.total }} {{ job.unit }}</p>{% endif %}
<table><tbody>
<tr><th scope="row">Image</th><td>{{ job.image }}, mode {{ job.mode }}</td></tr>
<tr><th scope="row">For</th><td>{{ job.match|matching }}</td></tr>
<tr><th scope="row">Disk to erase and write to</th><td>{{ job.disk }}</td></tr>
<tr><th scope="row">Times</th><td>made {{ job.created }}{% if job.claimed %}, taken {{ job.claimed }}{% endif %}
{% if job.started %}, started {{ job.started }}{% endif %}{% if job.ended %}, ended {{ job.ended }}{% endif %}</td></tr>
<tr><th scope="row">Last sign of life</th><td>{{ job.last_seen or "none" }}</td></tr>
{% if job.target %}<tr><th scope="row">Target</th>
<td><a href="/api/v1/targets/{{ job.target }}/profile.xml">{{ job.target }}</a></td></tr>{% endif %}
{% if has_report %}<tr><th scope="row">Report</th><td><a href="/ui/jobs/{{ job.id }}/report">as a page</a>,
<a href="/api/v1/jobs/{{ job.id }}/report">as JSON</a></td></tr>{% endif %}
</tbody></table>
{% if attempts|length > 1 %}<h2>Attempts</h2><ol>{% for number, state, ended, message in attempts %}
<li value="{{ number }}">{{ state }} {{ ended }} {{ message|clean }}</li>{% endfor %}</ol>{% endif %}
<h2>Events</h2><table><tbody>{% for event in events %}<tr><td>{{ event.time }}</td><td>{{ event.phase }}</td>
<td class="{{ event.kind }}">{{ event.kind }}</td><td>{{ event.text|clean }}</td></tr>
{% else %}<tr><td>None yet.</td></tr>{% endfor %}</tbody></table>
{% endblock %}""",
    "rehearsals.html": """{% extends "base.html" %}{% block body %}
<p>Whether each known machine could be restored now, decided from its newest profile and the image it would get.
{% if not automatic %}Nothing is rehearsed by itself: start the server with <code>--rehearse</code>.{% endif %}</p>
<table><thead><tr><th scope="col">Light</th><th scope="col">Machine</th><th scope="col">Image</th>
<th scope="col">Reason</th><th scope="col">Rehearsed</th><th scope="col">Report</th></tr></thead><tbody>
{% for each in rehearsals %}<tr><td class="light {{ each.light }}">{{ each.light|light }}</td>
<td>{{ each.target|clean }}<br>{{ each.product|clean }}</td><td>{{ each.image|clean }}<br>{{ each.why|clean }}</td>
<td>{{ each.message|clean }}</td><td>{{ each.rehearsed }}</td>
<td>{% if each.has_report %}<a href="/ui/rehearsals/{{ each.id }}">what differs</a>{% else %}none{% endif %}</td></tr>
{% else %}<tr><td colspan="6">Nothing was rehearsed yet.</td></tr>{% endfor %}</tbody></table>
{% endblock %}""",
    "targets.html": """{% extends "base.html" %}{% block body %}
<table><thead><tr><th scope="col">No.</th><th scope="col">Machine</th><th scope="col">Serial</th>
<th scope="col">UUID</th><th scope="col">Network cards</th><th scope="col">Seen</th></tr></thead><tbody>
{% for target in targets %}<tr><td><a href="/api/v1/targets/{{ target.id }}/profile.xml">{{ target.id }}</a></td>
<td>{{ target.vendor|clean }} {{ target.product|clean }}</td><td>{{ target.system_serial|clean }}</td>
<td>{{ target.system_uuid|clean }}</td><td>{{ target.macs|clean }}</td><td>{{ target.last_seen }}</td></tr>
{% else %}<tr><td colspan="6">No machine has asked yet.</td></tr>{% endfor %}</tbody></table>
{% endblock %}""",
}
