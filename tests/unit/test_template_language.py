# ruff: noqa: E501, Q000 - a template and what it prints stand on one line
import pytest

from bridge_core.dialects.values import TemplateRecord
from bridge_engine.templates import Dates, TemplateFault
from bridge_engine.templates.interpreter import execute
from bridge_engine.templates.parser import parse

DATA = {
    "Name": "n",
    "Empty": "",
    "List": ["a", "b", "c"],
    "Map": {"z": 1, "a": 2},
    "Row": TemplateRecord(Role="user", Content="hi"),
    "Number": 3,
    "Yes": True,
}


def run(source, data=None):
    parsed = parse(source)
    dates = Dates("2026-11-23", "2026-11-22")
    return execute(parsed.body, DATA if data is None else data, defined=parsed.defined, dates=dates)


@pytest.mark.parametrize(
    ("source", "printed"),
    [
        ("plain { } text", "plain { } text"),
        ("{{ .Name }}", "n"),
        ("{{.Name}}{{ .Name }}", "nn"),
        ("a \n {{- .Name -}} \n b", "anb"),
        ("a {{/* note */}} b", "a  b"),
        ("a {{- /* note */ -}} b", "ab"),
        ("{{- 3 }}", "3"),
        ("{{-3}}", "-3"),
        ("{{ .Absent }}", "<no value>"),
        ("{{ if .Absent }}x{{ else }}y{{ end }}", "y"),
        ("{{ if .Empty }}1{{ else if .Name }}2{{ else }}3{{ end }}", "2"),
        ("{{ if .Empty }}1{{ else if .Empty }}2{{ else }}3{{ end }}", "3"),
        ("{{ with .Row }}{{ .Role }}{{ else }}no{{ end }}", "user"),
        ("{{ with .Empty }}x{{ else }}{{ .Name }}{{ end }}", "n"),
        ("{{ range .List }}<{{ . }}>{{ end }}", "<a><b><c>"),
        ("{{ range $i, $x := .List }}{{ $i }}{{ $x }} {{ end }}", "0a 1b 2c "),
        ("{{ range $x := .List }}{{ $x }}{{ end }}", "abc"),
        ("{{ range .Empty2 }}x{{ else }}none{{ end }}", "none"),
        ("{{ range $k, $v := .Map }}{{ $k }}={{ $v }};{{ end }}", "a=2;z=1;"),
        ("{{ range .List }}{{ if eq . `b` }}{{ continue }}{{ end }}{{ . }}{{ end }}", "ac"),
        ("{{ range .List }}{{ if eq . `b` }}{{ break }}{{ end }}{{ . }}{{ end }}", "a"),
        ("{{ $last := .Empty }}{{ range .List }}{{ $last = . }}{{ end }}{{ $last }}", "c"),
        ("{{ range $i, $_ := .List }}{{ if eq (len (slice $.List $i)) 1 }}last={{ $i }}{{ end }}{{ end }}", "last=2"),
        ("{{ range .List }}{{ $.Name }}{{ end }}", "nnn"),
        ("{{ $x := 1 }}{{ if true }}{{ $x := 2 }}{{ $x }}{{ end }}{{ $x }}", "21"),
        ("{{ .Row.Content }}{{ (.Row).Role }}{{ $.Row.Role }}", "hiuseruser"),
        ("{{ .Name | printf `%s-%s` `x` }}", "x-n"),
        ("{{ printf `%d %5.2f|%-4s|%v|%q|%t|%%` 7 1.5 `ab` .List `q` true }}", '7  1.50|ab  |[a b c]|"q"|true|%'),
        ('{{ print "a" 1 2 "b" }}{{ println "x" 1 }}', "a1 2bx 1\n"),
        ("{{ and .Name .Number }}{{ or .Empty .Name }}{{ not .Empty }}", "3ntrue"),
        ("{{ if and .Empty .Absent.Deeper }}x{{ else }}short{{ end }}", "short"),
        ("{{ eq .Name `a` `n` }} {{ ne 1 2 }} {{ lt 1 2 }} {{ le 2 2 }} {{ gt 1 2 }} {{ ge 2 3 }}", "true true true true false false"),
        ("{{ len .List }} {{ index .List 1 }} {{ index .Map `a` }} {{ slice .Name 0 1 }}", "3 b 2 n"),
        ("{{ json .Map }}{{ json .List }}{{ json `<a>` }}", '{"z":1,"a":2}["a","b","c"]"\\u003ca\\u003e"'),
        ("{{ currentDate }} {{ yesterdayDate }}", "2026-11-23 2026-11-22"),
        ("{{ define `t` }}[{{ . }}]{{ end }}{{ template `t` .Name }}{{ template `t` .Number }}", "[n][3]"),
        ("{{ block `b` .Name }}({{ . }}){{ end }}", "(n)"),
        ('{{ "tab\\t\\u00e9\\x41\\"" }}', 'tab\té' + 'A"'),
        ("{{ `raw\\n}}` }}", "raw\\n}}"),
        ("{{ 'a' }} {{ 0x10 }} {{ 1.5 }} {{ true }}", "97 16 1.5 true"),
        ("{{ .Map }} {{ .List }}", "map[a:2 z:1] [a b c]"),
        ("{{ html `<b>` }}", "&lt;b&gt;"),
        ("{{ if not (eq .Name `x`) }}y{{ end }}", "y"),
        ("{{ range 3 }}{{ . }}{{ end }}", "012"),
    ],
)  # fmt: skip
def test_prints_as_go_does(source, printed):
    assert run(source) == printed


@pytest.mark.parametrize(
    ("source", "line", "said"),
    [
        ("a\n{{ if .X }}b", 2, "not closed"),
        ("{{ end }}", 1, "unexpected"),
        ("a\nb\n{{ nosuch 1 }}", 3, "function 'nosuch' not defined"),
        ("{{ .X", 1, "unclosed action"),
        ("{{/* x }}", 1, "unclosed comment"),
        ("{{ $x }}", 1, "undefined variable"),
        ("{{ break }}", 1, "outside"),
        ("{{ }}", 1, "missing value"),
        ("{{ (1 }}", 1, "unexpected end"),
        ("\n{{ .Row.Nothing }}", 2, "can't evaluate field Nothing"),
        ("{{ .Name.Deeper }}", 1, "can't evaluate field Deeper"),
        ("{{ eq 1 `a` }}", 1, "incompatible types"),
        ("{{ index .List 7 }}", 1, "out of range"),
        ("{{ len 3 }}", 1, "no length"),
        ("{{ not 1 2 }}", 1, "wrong number of arguments"),
        ("{{ range true }}{{ end }}", 1, "iterate"),
        ("{{ 1 2 }}", 1, "not a function"),
        ("{{ template `none` }}", 1, "not defined"),
        ("{{ define `t` }}{{ template `t` }}{{ end }}{{ template `t` }}", 1, "too deeply"),
        ("{{ range 999999 }}{{ range 999999 }}{{ end }}{{ end }}", 1, "too many steps"),
        ("{{ printf `%999999999d` 1 }}", 1, "too wide"),
        ("{{ # }}", 1, "unexpected"),
        ("{{ " + "(" * 500 + "1" + ")" * 500 + " }}", 1, "too deeply"),
        ("{{ if 1 }}" * 500 + "{{ end }}" * 500, 1, "too deeply"),
    ],
)  # fmt: skip
def test_a_fault_names_line_and_reason(source, line, said):
    with pytest.raises(TemplateFault, match=said) as caught:
        run(source)
    assert caught.value.line == line
