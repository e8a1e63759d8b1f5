{{- define "lorica.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- define "lorica.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "lorica.labels" -}}
{{ include "lorica.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "lorica.onGpu" -}}
{{- if hasPrefix "cuda:" .Values.device -}}yes{{- end -}}
{{- end -}}

{{- define "lorica.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{- if include "lorica.onGpu" . -}}
{{- $tag = printf "%s-cuda" $tag -}}
{{- end -}}
{{ printf "%s:%s" .Values.image.repository $tag }}
{{- end -}}

{{- define "lorica.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "lorica.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end -}}

{{- define "lorica.keysSecret" -}}
{{- if .Values.keys.existingSecret -}}
{{ .Values.keys.existingSecret }}
{{- else if .Values.keys.json -}}
{{ include "lorica.fullname" . }}-keys
{{- else -}}
{{- fail "keys.json or keys.existingSecret is required: a server that listens beyond loopback refuses to start without API keys." -}}
{{- end -}}
{{- end -}}

{{- define "lorica.databaseSecret" -}}
{{- if .Values.database.existingSecret -}}
{{ .Values.database.existingSecret }}
{{- else if .Values.database.url -}}
{{ include "lorica.fullname" . }}-database
{{- end -}}
{{- end -}}

{{- define "lorica.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "lorica.env" -}}
- name: LORICA_DATA_DIR
  value: /var/lib/lorica
- name: LORICA_MODEL_CACHE
  value: /var/lib/lorica/models
- name: HOME
  value: /tmp
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}
