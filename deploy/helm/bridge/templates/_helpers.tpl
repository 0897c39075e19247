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

{{- /* The admin listeners are on the pod's loopback, where no probe of the kubelet's own reaches: one runs beside them, in a
shell, which starts within milliseconds also where the machine is busy. */}}
{{- define "bridge.probe" -}}
{{- $answers := .answersSeconds | default 3 -}}
exec:
  command:
    - bash
    - -c
    - exec 3<>/dev/tcp/127.0.0.1/{{ .port }} && printf 'GET {{ .path }} HTTP/1.1\r\nHost:127.0.0.1\r\nConnection:close\r\n\r\n' >&3 && read -rt {{ $answers }} _ status _ <&3 && [ "$status" = 200 ]
timeoutSeconds: {{ add $answers 2 }}
{{- end }}

{{- /* A restart makes a busy machine busier, and drops what is in flight: who is only slow gets longer than for readiness. */}}
{{- define "bridge.livenessProbe" -}}
{{- include "bridge.probe" (dict "port" . "path" "/healthz" "answersSeconds" 15) }}
periodSeconds: 20
failureThreshold: 6
{{- end }}

{{- define "bridge.spread" -}}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{- include "bridge.selector" . | nindent 6 }}
{{- end }}
