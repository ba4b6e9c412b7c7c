{{/*
What the ledger's pod has beside that of others. The tenants file is a Secret, mounted as a folder:
by subPath it would never be updated.
*/}}
{{- define "s2d.ledgerMounts" -}}
{{- $tenancy := .Values.config.tenancy -}}
- {name: tenants, mountPath: {{ dir $tenancy.file | quote }}, readOnly: true}
- {name: state, mountPath: {{ $tenancy.state_dir | quote }}}
{{- end -}}

{{- define "s2d.ledgerVolumes" -}}
- name: tenants
  secret:
    secretName: {{ .Values.secrets.tenants.existingSecret | quote }}
    defaultMode: 0440
    items:
      - {key: tenants.yaml, path: {{ base .Values.config.tenancy.file | quote }}}
- name: state
{{- with .Values.control.state }}
{{- if .existingClaim }}
  persistentVolumeClaim:
    claimName: {{ .existingClaim | quote }}
{{- else }}
  emptyDir:
    sizeLimit: {{ .size | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
Prints the usage and audit logs, since what a replica prints does not reach `kubectl logs`. `timeout 0`
sets no limit: as the first process of a container `tail` itself would not heed SIGTERM.
*/}}
{{- define "s2d.usageContainer" -}}
{{- $folder := .Values.config.tenancy.state_dir -}}
- name: usage
  image: {{ include "s2d.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command:
    - timeout
    - "0"
    - tail
    - --quiet
    - --lines=0
    - --follow=name
    - --retry
    - {{ printf "%s/usage.jsonl" $folder | quote }}
    - {{ printf "%s/audit.jsonl" $folder | quote }}
  securityContext:
    {{- include "s2d.containerSecurity" . | nindent 4 }}
  resources:
    limits: {cpu: 100m, memory: 64Mi}
  volumeMounts:
    - {name: state, mountPath: {{ $folder | quote }}, readOnly: true}
{{- end -}}
