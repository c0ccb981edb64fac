{{- define "evermore.name" -}}
{{ .Values.nameOverride | default .Release.Name | trunc 53 | trimSuffix "-" }}
{{- end }}

{{- define "evermore.selector" -}}
app.kubernetes.io/name: {{ include "evermore.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "evermore.labels" -}}
{{ include "evermore.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* The reference to an image: (dict "image" IMAGE "tag" TAG), TAG where the image names none. */}}
{{- define "evermore.image" -}}
{{ .image.repository }}{{ if .image.digest }}@{{ .image.digest }}{{ else }}:{{ .image.tag | default .tag }}{{ end }}
{{- end }}

{{- define "evermore.appImage" -}}
{{ include "evermore.image" (dict "image" .Values.image "tag" "latest") }}
{{- end }}

{{- define "evermore.injectImage" -}}
{{ include "evermore.image" (dict "image" .Values.inject.image "tag" .Chart.AppVersion) }}
{{- end }}

{{/* The variables of evermore's options. A list has commas. */}}
{{- define "evermore.env" -}}
- name: EVERMORE_GRACE
  value: {{ printf "%ds" (int .Values.terminationGracePeriodSeconds) }}
- name: EVERMORE_HTTP
  value: {{ printf ":%d" (int .Values.metrics.port) | quote }}
- name: EVERMORE_ROOT
  value: /var/lib/evermore/state
{{- range $name, $value := .Values.options }}
{{- if not (kindIs "invalid" $value) }}
- name: EVERMORE_{{ $name | upper | replace "-" "_" }}
  value: {{ (kindIs "slice" $value | ternary (join "," $value) $value) | toString | quote }}
{{- end }}
{{- end }}
{{- end }}
