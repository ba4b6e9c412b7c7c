{{/* Name of the RayService and beginning of every other name. KubeRay allows 47 characters. */}}
{{- define "s2d.name" -}}
{{- $name := .Release.Name -}}
{{- if not (contains .Chart.Name $name) -}}{{- $name = printf "%s-%s" $name .Chart.Name -}}{{- end -}}
{{- $name = $name | trunc 47 | trimSuffix "-" -}}
{{- if not (regexMatch "^[a-z][a-z0-9-]*$" $name) -}}
{{- fail (printf "the release name %s makes the name %s; a RayService's begins with a letter and has letters, digits and '-'" .Release.Name $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/* What finds the pods of this release, whatever cluster of it they belong to. KubeRay gives pods
     app.kubernetes.io/name itself, and selects by it. */}}
{{- define "s2d.selector" -}}
app.kubernetes.io/part-of: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{/* Labels of pods: nothing in them changes with the chart, for that would be a new cluster. */}}
{{- define "s2d.podLabels" -}}
{{ include "s2d.selector" . }}
{{- with .Values.extraLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "s2d.labels" -}}
{{ include "s2d.podLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "s2d.image" -}}
{{- $image := .Values.image -}}
{{- $repository := required "image.repository: name the image of s2d-ray that the cluster can pull; docs/kubernetes.md says how to build one" $image.repository -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository ($image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* Port of the API. */}}
{{/* Seconds that a replica which is to end may go on with what it has. */}}
{{- define "s2d.drain" -}}
{{- $defaults := .Files.Get "files/defaults.json" | fromJson -}}
{{- $longest := dig "max_request_s" $defaults.http.max_request_s (.Values.config.http | default dict) | int -}}
{{- add $longest $defaults.closingS -}}
{{- end -}}

{{- define "s2d.port" -}}
{{- $defaults := .Files.Get "files/defaults.json" | fromJson -}}
{{- dig "port" $defaults.http.port (.Values.config.http | default dict) | int -}}
{{- end -}}

{{/* CPUs that Ray counts on one pod. Takes a group. */}}
{{- define "s2d.cpus" -}}
{{- $cpu := .resources.limits.cpu | toString -}}
{{- if hasSuffix "m" $cpu -}}
{{- divf (trimSuffix "m" $cpu | float64) 1000 | ceil | int -}}
{{- else -}}
{{- $cpu | float64 | ceil | int -}}
{{- end -}}
{{- end -}}

{{/* GPUs of one pod, by its limits. Takes a group. */}}
{{- define "s2d.gpus" -}}
{{- $gpus := 0 -}}
{{- range $resource, $amount := .resources.limits -}}
{{- if hasSuffix "/gpu" $resource -}}{{- $gpus = add $gpus ($amount | int) -}}{{- end -}}
{{- end -}}
{{- $gpus -}}
{{- end -}}
