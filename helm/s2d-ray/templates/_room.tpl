{{/*
Whether the pods of a placement have room for the replicas that its targets ask for. A replica takes
GPUs, or one CPU where it runs on processors.
*/}}

{{/* Ray's CPUs of one pod: its limit, rounded up as KubeRay does. Takes a group. */}}
{{- define "s2d.cpus" -}}
{{- $cpu := toString .resources.limits.cpu -}}
{{- ternary (divf (trimSuffix "m" $cpu) 1000) (float64 $cpu) (hasSuffix "m" $cpu) | ceil | int -}}
{{- end -}}

{{/* What a pod has, and what each target asks for, as JSON. Takes root, name: the placement's. */}}
{{- define "s2d.demand" -}}
{{- $defaults := .root.Files.Get "files/defaults.json" | fromJson -}}
{{- $placement := get .root.Values.placements .name -}}
{{- $has := include "s2d.gpus" $placement | int -}}
{{- $targets := list -}}
{{- range $name, $target := .root.Values.config.targets -}}
{{- if eq $target.placement $.name -}}
{{- $gpus := include "s2d.gpusOf" (dict "root" $.root "section" "target" "engine" $target "has" $has) | int -}}
{{- $fixed := $target.num_replicas | default $defaults.target.num_replicas -}}
{{- $asks := dict "least" $fixed "most" $fixed "leastKey" "num_replicas" "mostKey" "num_replicas" -}}
{{- with $target.autoscaling -}}
{{- $asks = dict
  "least" (dig "min_replicas" $defaults.autoscaling.min_replicas .)
  "most" .max_replicas
  "leastKey" "autoscaling.min_replicas"
  "mostKey" "autoscaling.max_replicas" -}}
{{- end -}}
{{- $surge := dig "surge" $defaults.target.surge $target -}}
{{- $asks = merge $asks (dict "name" $name "each" (max 1 $gpus) "unit" (ternary "GPUs" "CPUs" (gt $gpus 0)) "surge" $surge) -}}
{{- $targets = append $targets $asks -}}
{{- end -}}
{{- end -}}
{{- $pod := dict "GPUs" $has "CPUs" (include "s2d.cpus" $placement | int) -}}
{{- dict "pod" $pod "pods" $placement.max "targets" $targets | toJson -}}
{{- end -}}

{{/* Refuses what would wait for ever, however free the placement is. Takes root, name. */}}
{{- define "s2d.checkRoom" -}}
{{- $demand := include "s2d.demand" . | fromJson -}}
{{- $pods := int $demand.pods -}}
{{- range $unit, $has := $demand.pod -}}
{{- $taken := 0 -}}
{{- $keys := list -}}
{{- range $demand.targets -}}
{{- if eq .unit $unit -}}
{{- $each := int .each -}}
{{- $room := mul $pods (div (int $has) $each) | int -}}
{{- if gt (int .most) $room -}}
{{- fail (printf "config.targets.%s.%s: is %d, but placements.%s.max, %d, has room for %d (%s: a replica takes %d, a pod has %d)" .name .mostKey (int .most) $.name $pods $room $unit $each (int $has)) -}}
{{- end -}}
{{- $taken = add $taken (mul (int .least) $each) -}}
{{- $keys = append $keys (printf "config.targets.%s.%s" .name .leastKey) -}}
{{- end -}}
{{- end -}}
{{- $all := mul $pods (int $has) | int -}}
{{- if gt (int $taken) $all -}}
{{- fail (printf "placements.%s.max: its pods, %d, have %d %s together, but %s take %d" $.name $pods $all $unit (join " and " $keys) (int $taken)) -}}
{{- end -}}
{{- range $demand.targets -}}
{{- if and .surge (eq .unit $unit) (gt (add $taken (int .each) | int) $all) -}}
{{- fail (printf "config.targets.%s.surge: placements.%s.max, %d, has no room for one more replica (%d %s in all, %d taken), so an update would wait for ever; raise max, or set surge to false" .name $.name $pods $all $unit (int $taken)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* For the notes: which targets cannot all have their most replicas at once. Takes root, name. */}}
{{- define "s2d.crowded" -}}
{{- $demand := include "s2d.demand" . | fromJson -}}
{{- range $unit, $has := $demand.pod -}}
{{- $taken := 0 -}}
{{- $names := list -}}
{{- range $demand.targets -}}
{{- if eq .unit $unit -}}
{{- $taken = add $taken (mul (int .most) (int .each)) -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- end -}}
{{- $all := mul (int $demand.pods) (int $has) | int -}}
{{- if gt (int $taken) $all -}}
{{- printf "placements.%s.max: its pods have %d %s together; %s take %d where each has its most replicas.\nThen the replicas that come last wait until others go." $.name $all $unit (join " and " $names) (int $taken) -}}
{{- end -}}
{{- end -}}
{{- end -}}
