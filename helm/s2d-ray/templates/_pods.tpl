{{/* Security of a container: no root, no rights, no writing outside its volumes. */}}
{{- define "s2d.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "s2d.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* What every process of the cluster must have alike; `s2d serve` sets the same. */}}
{{- define "s2d.env" -}}
- {name: HOME, value: /home/s2d}
- {name: XDG_CACHE_HOME, value: /models}
- {name: OMP_WAIT_POLICY, value: PASSIVE}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
- {name: RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S, value: "2"}
- {name: RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S, value: "2"}
{{- with .Values.secrets.hub.existingSecret }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ . | quote }}, key: token}
{{- end }}
{{- end -}}

{{- define "s2d.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: home, mountPath: /home/s2d}
- {name: shm, mountPath: /dev/shm}
- {name: models, mountPath: /models}
- {name: config, mountPath: /etc/s2d-ray, readOnly: true}
{{- end -}}

{{- define "s2d.volumes" -}}
- name: tmp
  emptyDir: {}
- name: home
  emptyDir: {}
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ .Values.sharedMemory | quote }}
- name: models
{{- if eq .Values.modelCache.type "claim" }}
  persistentVolumeClaim:
    claimName: {{ .Values.modelCache.existingClaim | quote }}
{{- else }}
  emptyDir:
    sizeLimit: {{ .Values.modelCache.size | quote }}
{{- end }}
- name: config
  configMap:
    name: {{ include "s2d.name" . }}-config
{{- end -}}

{{/*
The pod template of a group. Takes root, group, name, container; `pulls` if models are used there,
`spread` if its pods should lie on different nodes, `ledger` if the ledger runs there. It names no model and holds no hash of `config`:
either would make a new cluster of a new target.
*/}}
{{- define "s2d.pod" -}}
{{- $root := .root -}}
metadata:
  labels:
    {{- include "s2d.podLabels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .name | quote }}
spec:
  {{- if ne .name "head" }}
  automountServiceAccountToken: false
  {{- end }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: 60
  securityContext:
    {{- include "s2d.podSecurity" $root | nindent 4 }}
  {{- with $root.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . | quote }}
    {{- end }}
  {{- end }}
  {{- with .group.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .group.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .spread }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "s2d.selector" $root | nindent 10 }}
          app.kubernetes.io/component: {{ .name | quote }}
  {{- end }}
  {{- if .pulls }}
  initContainers:
    - name: pull-models
      image: {{ include "s2d.image" $root | quote }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      command: [s2d, models, pull, --config, /etc/s2d-ray/config.json, --place, {{ .name | quote }}]
      securityContext:
        {{- include "s2d.containerSecurity" $root | nindent 8 }}
      env:
        {{- include "s2d.env" $root | nindent 8 }}
      resources:
        {{- include "s2d.resources" .group | nindent 8 }}
      volumeMounts:
        {{- include "s2d.mounts" $root | nindent 8 }}
  {{- end }}
  containers:
    - name: {{ .container }}
      image: {{ include "s2d.image" $root | quote }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      securityContext:
        {{- include "s2d.containerSecurity" $root | nindent 8 }}
      env:
        {{- include "s2d.env" $root | nindent 8 }}
      ports:
        {{- if eq .name "head" }}
        - {name: gcs-server, containerPort: 6379, protocol: TCP}
        - {name: dashboard, containerPort: 8265, protocol: TCP}
        - {name: client, containerPort: 10001, protocol: TCP}
        {{- end }}
        - {name: metrics, containerPort: 8080, protocol: TCP}
        - {name: serve, containerPort: {{ include "s2d.port" $root }}, protocol: TCP}
      resources:
        {{- include "s2d.resources" .group | nindent 8 }}
      volumeMounts:
        {{- include "s2d.mounts" $root | nindent 8 }}
        {{- if .ledger }}
        {{- include "s2d.ledgerMounts" $root | nindent 8 }}
        {{- end }}
    {{- if .ledger }}
    {{- include "s2d.usageContainer" $root | nindent 4 }}
    {{- end }}
  volumes:
    {{- include "s2d.volumes" $root | nindent 4 }}
    {{- if .ledger }}
    {{- include "s2d.ledgerVolumes" $root | nindent 4 }}
    {{- end }}
{{- end -}}

{{- define "s2d.resources" -}}
limits:
  {{- toYaml .resources.limits | nindent 2 }}
{{- with .resources.requests }}
requests:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* A worker group. Takes root, group, name, min, max; and what "s2d.pod" takes. */}}
{{- define "s2d.group" -}}
{{- $idle := .root.Values.autoscaling.idleTimeoutSeconds -}}
{{- if gt (include "s2d.gpus" .group | int) 0 -}}
{{- $idle = .root.Values.autoscaling.gpuIdleTimeoutSeconds -}}
{{- end -}}
- groupName: {{ .name | quote }}
  replicas: {{ .min }}
  minReplicas: {{ .min }}
  maxReplicas: {{ .max }}
  idleTimeoutSeconds: {{ $idle }}
  labels:
    s2d-ray/{{ .name }}: "true"
    {{- with .group.rayLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  rayStartParams:
    object-store-memory: "104857600"
  template:
    {{- include "s2d.pod" (merge (dict "container" "ray-worker") .) | nindent 4 }}
{{- end -}}
