{{/*
The Serve document, from `config`. `s2d serve` makes the same one by s2d_ray/serve/deploy.py; the test
tests/kube/test_serve_document.py compares the two. Arguments hold what is written in `config`, as it
is written, so that a change restarts one application alone.

It is JSON: there, a whole number never becomes 1e+06.
*/}}
{{- define "s2d.serveConfig" -}}
{{- include "s2d.checkConfig" . -}}
{{- $config := .Values.config -}}
{{- $apps := list -}}
{{- if $config.draft -}}
{{- $apps = append $apps (include "s2d.draftApp" . | fromJson) -}}
{{- end -}}
{{- range $name, $target := $config.targets -}}
{{- $apps = append $apps (include "s2d.targetApp" (dict "root" $ "name" $name "target" $target) | fromJson) -}}
{{- end -}}
{{- if $config.tenancy -}}
{{- $apps = append $apps (include "s2d.ledgerApp" . | fromJson) -}}
{{- end -}}
{{- $apps = append $apps (include "s2d.routerApp" . | fromJson) -}}
{{- $http := dict "host" $config.http.host "port" (include "s2d.port" . | int) -}}
{{- $document := dict "proxy_location" "EveryNode" "http_options" $http "applications" $apps -}}
{{- if eq (dig "log_format" "text" ($config.telemetry | default dict)) "json" -}}
{{- $_ := set $document "logging_config" (dict "encoding" "JSON") -}}
{{- end -}}
{{- $document | toPrettyJson -}}
{{- end -}}

{{- define "s2d.checkConfig" -}}
{{- $http := .Values.config.http | default dict -}}
{{- if ne ($http.host | default "") "0.0.0.0" -}}
{{- fail "config.http.host: must be 0.0.0.0, so that the pods of other nodes reach the API" -}}
{{- end -}}
{{- if not (or $http.allow_unauthenticated .Values.config.tenancy) -}}
{{- fail "config.http.allow_unauthenticated: the API asks nobody for a key; add config.tenancy, or set it to true to say that network.policy and network.ingress guard it" -}}
{{- end -}}
{{- if ge (include "s2d.drain" . | int) (int .Values.terminationGracePeriodSeconds) -}}
{{- fail (printf "terminationGracePeriodSeconds: must be more than the %s s that replicas may take to end (config.http.max_request_s and a little)" (include "s2d.drain" .)) -}}
{{- end -}}
{{- include "s2d.checkTenancy" . -}}
{{- if and (eq .Values.modelCache.type "claim") (not .Values.modelCache.existingClaim) -}}
{{- fail "modelCache.existingClaim: name a ReadWriteMany claim, or choose the type emptyDir" -}}
{{- end -}}
{{- range $name, $target := .Values.config.targets -}}
{{- $where := printf "config.targets.%s" $name -}}
{{- $placement := $target.placement | default "" -}}
{{- if not (hasKey $.Values.placements $placement) -}}
{{- fail (printf "%s.placement: must be one of placements: %s" $where (keys $.Values.placements | sortAlpha | join ", " | default "none is there")) -}}
{{- end -}}
{{- $has := include "s2d.gpus" (get $.Values.placements $placement) | int -}}
{{- $wants := include "s2d.gpusOf" (dict "root" $ "section" "target" "engine" $target "has" $has) | int -}}
{{- if gt $wants $has -}}
{{- fail (printf "%s.num_gpus: a replica takes %d, but a pod of placements.%s has %d" $where $wants $placement $has) -}}
{{- end -}}
{{- end -}}
{{- range $name, $_ := .Values.placements -}}
{{- include "s2d.checkRoom" (dict "root" $ "name" $name) -}}
{{- end -}}
{{- end -}}

{{- define "s2d.checkTenancy" -}}
{{- $tenancy := .Values.config.tenancy -}}
{{- $secret := .Values.secrets.tenants.existingSecret -}}
{{- if and $secret (not $tenancy) -}}
{{- fail "secrets.tenants.existingSecret: nothing reads it without config.tenancy" -}}
{{- end -}}
{{- $plans := "/etc/s2d-ray/plans.json" -}}
{{- if and .Values.planFile (ne (.Values.config.plans | default "") $plans) -}}
{{- fail (printf "planFile: nothing reads it; set config.plans to %s" $plans) -}}
{{- end -}}
{{- if and (not .Values.planFile) (eq (.Values.config.plans | default "") $plans) -}}
{{- fail "config.plans: give the file's contents, such as by --set-file planFile=plans.json" -}}
{{- end -}}
{{- with $tenancy -}}
{{- if not $secret -}}
{{- fail "secrets.tenants.existingSecret: name the Secret of the tenants file; `s2d kube tenants sync` makes it" -}}
{{- end -}}
{{- range $key, $folder := dict "file" (dir .file) "state_dir" .state_dir -}}
{{- if or (not (regexMatch "^(/[A-Za-z0-9._-]+){2,}$" $folder)) (regexMatch "^/(tmp|home/s2d|dev/shm|models|etc/s2d-ray)$" $folder) -}}
{{- fail (printf "config.tenancy.%s: must lie in a folder of its own, such as /etc/s2d-tenants/tenants.yaml and /var/lib/s2d-ray; a volume is mounted there" $key) -}}
{{- end -}}
{{- end -}}
{{- if eq (dir .file) .state_dir -}}
{{- fail "config.tenancy.state_dir: must not be the folder of config.tenancy.file, which is read-only" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* GPUs of one replica. Takes root, section, engine, has: the GPUs of a pod it runs on. */}}
{{- define "s2d.gpusOf" -}}
{{- $defaults := get (.root.Files.Get "files/defaults.json" | fromJson) .section -}}
{{- $device := .engine.device | default $defaults.device -}}
{{- if or (eq $device "cuda") (and (eq $device "auto") (gt (.has | int) 0)) -}}
{{- .engine.num_gpus | default $defaults.num_gpus | default 1 | int -}}
{{- else -}}
0
{{- end -}}
{{- end -}}

{{- define "s2d.draftApp" -}}
{{- $draft := .Values.config.draft -}}
{{- $has := include "s2d.gpus" .Values.draft | int -}}
{{- $gpus := include "s2d.gpusOf" (dict "root" . "section" "draft" "engine" $draft "has" $has) | int -}}
{{- if gt $gpus $has -}}
{{- fail "config.draft.device: is cuda, but draft.resources.limits has no GPU" -}}
{{- end -}}
{{- $args := dict "draft" $draft "num_gpus" $gpus -}}
{{- with .Values.config.telemetry -}}
{{- $_ := set $args "telemetry" . -}}
{{- end -}}
{{- dict
  "name" "draft"
  "route_prefix" nil
  "import_path" "s2d_ray.serve.apps:build_draft"
  "args" $args
| toJson -}}
{{- end -}}

{{- define "s2d.targetApp" -}}
{{- $config := .root.Values.config -}}
{{- $defaults := .root.Files.Get "files/defaults.json" | fromJson -}}
{{- $target := .target -}}
{{- $args := dict "target" (omit $target "num_replicas" "autoscaling" "surge" "placement") -}}
{{- with $config.draft -}}
{{- $deadlines := dict
  "deadline_ms" (.deadline_ms | default $defaults.draft.deadline_ms)
  "force_deadline_ms" (.force_deadline_ms | default $defaults.draft.force_deadline_ms) -}}
{{- $_ := set $args "draft" $deadlines -}}
{{- end -}}
{{- with $config.telemetry -}}
{{- $_ := set $args "telemetry" . -}}
{{- end -}}
{{- $has := include "s2d.gpus" (get .root.Values.placements $target.placement) | int -}}
{{- $gpus := include "s2d.gpusOf" (dict "root" .root "section" "target" "engine" $target "has" $has) | int -}}
{{- $options := dict
  "num_cpus" (ternary 0 1 (gt $gpus 0))
  "num_gpus" $gpus
  "label_selector" (dict (printf "s2d-ray/%s" $target.placement) "true") -}}
{{- $batch := $target.max_batch | default $defaults.target.max_batch | int -}}
{{- $settings := dict "control" ($config.control | default dict) -}}
{{- with $config.plans -}}
{{- $_ := set $settings "plans" . -}}
{{- end -}}
{{- $waiting := dig "max_waiting" $defaults.target.max_waiting $target | int -}}
{{- $deployment := dict
  "name" "target"
  "max_ongoing_requests" (add $batch $waiting $defaults.spareRequests)
  "max_surge_percent" (ternary $defaults.surgePercent 0 (dig "surge" $defaults.target.surge $target))
  "graceful_shutdown_timeout_s" (include "s2d.drain" .root | int)
  "ray_actor_options" $options
  "user_config" $settings -}}
{{- if $target.autoscaling -}}
{{- $scaling := dict "defaults" $defaults "autoscaling" $target.autoscaling "batch" $batch -}}
{{- $_ := set $deployment "autoscaling_config" (include "s2d.autoscaling" $scaling | fromJson) -}}
{{- else -}}
{{- $_ := set $deployment "num_replicas" ($target.num_replicas | default $defaults.target.num_replicas) -}}
{{- end -}}
{{- dict
  "name" (printf "target-%s" .name)
  "route_prefix" nil
  "import_path" "s2d_ray.serve.apps:build_target"
  "args" $args
  "deployments" (list $deployment)
| toJson -}}
{{- end -}}

{{/* Whole, since it replaces what stands in code. Takes defaults, autoscaling, batch. */}}
{{- define "s2d.autoscaling" -}}
{{- $tokens := .autoscaling.target_outstanding_tokens -}}
{{- $options := deepCopy .defaults.autoscaling -}}
{{- range $key, $value := omit .autoscaling "target_outstanding_tokens" -}}
{{- if ne (kindOf $value) "invalid" -}}
{{- $_ := set $options $key $value -}}
{{- end -}}
{{- end -}}
{{- $_ := set $options "target_ongoing_requests" (coalesce $tokens .autoscaling.target_ongoing_requests (max 1 (div (mul 3 .batch) 4))) -}}
{{- $_ := set $options "policy" (dict "policy_function" (ternary .defaults.policies.tokens .defaults.policies.requests (not (empty $tokens)))) -}}
{{- $options | toJson -}}
{{- end -}}

{{- define "s2d.ledgerApp" -}}
{{- $config := .Values.config -}}
{{- $defaults := .Files.Get "files/defaults.json" | fromJson -}}
{{- $requests := dig "max_open_requests" $defaults.http.max_open_requests $config.http | int -}}
{{- $slots := dict -}}
{{- range $name, $target := $config.targets -}}
{{- $_ := set $slots $name ($target.max_batch | default $defaults.target.max_batch) -}}
{{- end -}}
{{- $args := dict
  "tenancy" $config.tenancy
  "max_open" (max 1 (div (mul $requests 7) 8))
  "batch_slots" $slots -}}
{{- dict
  "name" "ledger"
  "route_prefix" nil
  "import_path" "s2d_ray.serve.apps:build_ledger"
  "args" $args
  "deployments" (list (dict "name" "ledger" "max_ongoing_requests" (add $requests 1000)))
| toJson -}}
{{- end -}}

{{- define "s2d.routerApp" -}}
{{- $config := .Values.config -}}
{{- $defaults := .Files.Get "files/defaults.json" | fromJson -}}
{{- $facts := dict -}}
{{- range $name, $target := $config.targets -}}
{{- $context := $target.max_context | default $defaults.target.max_context -}}
{{- $tokens := $target.default_max_tokens | default $defaults.target.default_max_tokens -}}
{{- $batch := $target.max_batch | default $defaults.target.max_batch -}}
{{- $most := dig "max_replicas" ($target.num_replicas | default $defaults.target.num_replicas) ($target.autoscaling | default dict) -}}
{{- $slots := mul $batch $most -}}
{{- $_ := set $facts $name (dict "model" $target.model "max_context" $context "default_max_tokens" $tokens "slots" $slots) -}}
{{- end -}}
{{- $args := dict "http" (omit $config.http "max_open_requests" "num_routers") -}}
{{- $settings := dict
  "targets" $facts
  "has_draft" (not (empty $config.draft))
  "plan" ($config.plan | default dict) -}}
{{- if kindIs "map" $config.routing -}}
{{- $_ := set $settings "routing" $config.routing -}}
{{- end -}}
{{- with $config.plans -}}
{{- $_ := set $settings "plans" . -}}
{{- end -}}
{{- with $config.tenancy -}}
{{- $_ := set $args "max_wait_s" (.max_wait_s | default $defaults.tenancy.max_wait_s) -}}
{{- $_ := set $args "local_texts" (.local_texts | default $defaults.tenancy.local_texts) -}}
{{- end -}}
{{- with $config.telemetry -}}
{{- $_ := set $args "telemetry" . -}}
{{- end -}}
{{- $deployment := dict
  "name" "router"
  "num_replicas" .Values.router.replicas
  "max_replicas_per_node" 1
  "max_ongoing_requests" ($config.http.max_open_requests | default $defaults.http.max_open_requests)
  "graceful_shutdown_timeout_s" (include "s2d.drain" . | int)
  "user_config" $settings -}}
{{- dict
  "name" "router"
  "route_prefix" "/"
  "import_path" "s2d_ray.serve.apps:build_router"
  "args" $args
  "deployments" (list $deployment)
| toJson -}}
{{- end -}}
