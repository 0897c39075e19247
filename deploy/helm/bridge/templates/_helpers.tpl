{{- define "bridge.name" -}}
{{- $n := printf "%s-bridge" .Release.Name -}}
{{- if contains "bridge" .Release.Name }}{{ $n = .Release.Name }}{{ end -}}
{{- $n | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "bridge.selector" -}}
app.kubernetes.io/name: bridge
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "bridge.labels" -}}
{{ include "bridge.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "bridge.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end -}}
{{- end }}

{{- define "bridge.pki" -}}
{{ .Values.pki.secretName | default (printf "%s-pki" (include "bridge.name" .)) }}
{{- end }}

{{- define "bridge.etcd" -}}
{{- if .Values.etcd.endpoints }}{{ .Values.etcd.endpoints }}
{{- else -}}
{{- $name := include "bridge.name" . -}}
{{- range $i := until (int .Values.etcd.replicas) }}{{ if $i }},{{ end }}https://{{ $name }}-etcd-{{ $i }}.{{ $name }}-etcd.{{ $.Release.Namespace }}.svc:2379{{ end -}}
{{- end -}}
{{- end }}

{{- define "bridge.registries" -}}
{{- $name := include "bridge.name" . -}}
{{- range $i := until (int .Values.registry.replicas) }}{{ if $i }},{{ end }}{{ $name }}-registry-{{ $i }}.{{ $name }}-registry.{{ $.Release.Namespace }}.svc:11400{{ end -}}
{{- end }}

{{- define "bridge.guards" -}}
{{- $name := include "bridge.name" . -}}
{{- range $i := until (int .Values.registry.replicas) }}{{ if $i }},{{ end }}https://{{ $name }}-registry-{{ $i }}.{{ $name }}-registry.{{ $.Release.Namespace }}.svc:11404{{ end -}}
{{- end }}

{{- define "bridge.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "bridge.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* The admin listeners are on the pod's loopback: a probe runs beside them, by the plainest interpreter. */}}
{{- define "bridge.probe" -}}
exec:
  command:
    - python3
    - -ISc
    - import http.client as h,sys;c=h.HTTPConnection("127.0.0.1",{{ .port }},timeout=3);c.request("GET","{{ .path }}");sys.exit(c.getresponse().status!=200)
timeoutSeconds: 5
{{- end }}

{{- define "bridge.spread" -}}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{- include "bridge.selector" . | nindent 6 }}
{{- end }}
