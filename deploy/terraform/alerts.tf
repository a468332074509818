# Alerts, each with the part of docs/operations.md that says what to do.

locals {
  # The resource that carries the main variant's metrics.
  resource_type   = local.service ? "cloud_run_revision" : "cloud_run_worker_pool"
  resource_filter = "resource.type=\"${local.resource_type}\" AND resource.labels.${local.service ? "service_name" : "worker_pool_name"}=\"${var.name}\""

  subscription_filter = "resource.type=\"pubsub_subscription\" AND resource.labels.subscription_id=\"${local.subscription.name}\""

  # The filter of each metric counted from log lines, for the main variant.
  counted = {
    for key, metric in google_logging_metric.count :
    key => "metric.type=\"logging.googleapis.com/user/${metric.name}\" AND resource.type=\"${local.resource_type}\""
  }

  jobs = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.jobs.name}\" AND resource.type=\"${local.resource_type}\""

  hourly = { aligner = "ALIGN_DELTA", reducer = "REDUCE_SUM", period = 3600, for = 0, denominator = null }

  # Each alert: its conditions, any of which is enough. A negative limit leaves a condition out, and an alert without
  # conditions is not made. `section` is its heading in docs/operations.md.
  alerts = {
    cold_starts = {
      title = "many cold starts", severity = "WARNING", section = "Alert: cold starts"
      conditions = [merge(local.hourly, {
        name = "cold starts in an hour", limit = var.alert_limits.cold_starts_per_hour, filter = local.counted["cold-starts"]
      })]
    }
    latency = {
      title = "slow requests", severity = "WARNING", section = "Alert: latency"
      conditions = [{
        name   = "p95 of request latency, in milliseconds"
        limit  = local.service ? var.alert_limits.latency_p95_seconds * 1000 : -1
        filter = "metric.type=\"run.googleapis.com/request_latencies\" AND ${local.resource_filter}"
        # One distribution over all instances and codes, then its percentile.
        aligner = "ALIGN_DELTA", reducer = "REDUCE_PERCENTILE_95", period = 300, for = 600, denominator = null
      }]
    }
    failed_requests = {
      title = "messages are refused", severity = "ERROR", section = "Alert: failed requests"
      conditions = [{
        name        = "share of requests answered 429 or 5xx"
        limit       = local.service ? var.alert_limits.failed_requests_share : -1
        filter      = "metric.type=\"run.googleapis.com/request_count\" AND ${local.resource_filter} AND metric.labels.response_code=monitoring.regex.full_match(\"429|5..\")"
        denominator = "metric.type=\"run.googleapis.com/request_count\" AND ${local.resource_filter}"
        aligner     = "ALIGN_RATE", reducer = "REDUCE_SUM", period = 300, for = 600
      }]
    }
    failed_jobs = {
      title = "jobs fail for good", severity = "ERROR", section = "Alert: failed jobs"
      conditions = [merge(local.hourly, {
        name = "failed jobs in an hour", limit = var.alert_limits.failed_jobs_per_hour, filter = local.counted["failed-jobs"]
      })]
    }
    panics = {
      title = "the worker has a defect", severity = "CRITICAL", section = "Alert: panics"
      conditions = [merge(local.hourly, {
        name = "panics in an hour", limit = 0, filter = local.counted["panics"]
      })]
    }
    dead_letters = {
      title = "dead letters", severity = "CRITICAL", section = "Alert: dead letters"
      conditions = [
        merge(local.hourly, {
          name   = "messages moved to the dead letters", limit = 0
          filter = "metric.type=\"pubsub.googleapis.com/subscription/dead_letter_message_count\" AND ${local.subscription_filter}"
        }),
        merge(local.hourly, {
          name = "jobs given up after their last delivery", limit = 0, filter = local.counted["retries-exhausted"]
        }),
      ]
    }
    backlog = {
      title = "jobs wait too long", severity = "ERROR", section = "Alert: backlog"
      conditions = [{
        name    = "age of the oldest unacknowledged message, in seconds"
        limit   = var.alert_limits.oldest_message_seconds
        filter  = "metric.type=\"pubsub.googleapis.com/subscription/oldest_unacked_message_age\" AND ${local.subscription_filter}"
        aligner = "ALIGN_MAX", reducer = "REDUCE_MAX", period = 300, for = 300, denominator = null
      }]
    }
    cache_hits = {
      title = "few jobs are answered from the store", severity = "WARNING", section = "Alert: cache hits"
      conditions = [merge(local.hourly, {
        name        = "share of jobs answered from what was stored before"
        limit       = var.alert_limits.cache_hit_share
        filter      = local.counted["cached-jobs"]
        denominator = local.counted["finished-jobs"]
        comparison  = "COMPARISON_LT"
      })]
    }
    memory = {
      title = "memory is short", severity = "WARNING", section = "Alert: memory"
      conditions = [
        {
          name    = "memory in use, as a share of the limit"
          limit   = var.alert_limits.memory_share
          filter  = "metric.type=\"run.googleapis.com/container/memory/utilizations\" AND ${local.resource_filter}"
          aligner = "ALIGN_PERCENTILE_99", reducer = "REDUCE_MAX", period = 300, for = 300, denominator = null
        },
        merge(local.hourly, {
          name   = "log lines about memory pressure in an hour"
          limit  = var.alert_limits.memory_pressure_per_hour
          filter = local.counted["memory"]
        }),
      ]
    }
    slow_jobs = {
      title = "slow jobs", severity = "WARNING", section = "Alert: slow jobs"
      conditions = [merge(local.hourly, {
        name = "slow jobs in an hour", limit = var.alert_limits.slow_jobs_per_hour, filter = local.counted["slow-jobs"]
      })]
    }
    conflicts = {
      title = "two jobs claim one place", severity = "WARNING", section = "Alert: conflicts"
      conditions = [merge(local.hourly, {
        name = "conflicts in an hour", limit = var.alert_limits.conflicts_per_hour, filter = local.counted["conflicts"]
      })]
    }
    auth_refusals = {
      title = "callers are refused", severity = "WARNING", section = "Alert: auth refusals"
      conditions = [merge(local.hourly, {
        name   = "requests without a good token in an hour"
        limit  = var.alert_limits.auth_refusals_per_hour
        filter = local.counted["auth-refusals"]
      })]
    }
    batch = {
      title = "a batch failed", severity = "ERROR", section = "Alert: batch"
      conditions = [merge(local.hourly, {
        name   = "failed executions of the batch job"
        limit  = var.batch == null ? -1 : 0
        filter = "metric.type=\"run.googleapis.com/job/completed_execution_count\" AND resource.type=\"cloud_run_job\" AND resource.labels.job_name=\"${var.name}-batch\" AND metric.labels.result=\"failed\""
      })]
    }
  }

  alerts_made = {
    for key, alert in local.alerts : key => merge(alert, {
      conditions = [for condition in alert.conditions : condition if condition.limit >= 0]
    }) if anytrue([for condition in alert.conditions : condition.limit >= 0])
  }
}

resource "google_monitoring_alert_policy" "alert" {
  for_each = local.alerts_made

  display_name          = "${var.name}: ${each.value.title}"
  combiner              = "OR"
  severity              = each.value.severity
  notification_channels = var.notification_channels
  user_labels           = local.labels

  dynamic "conditions" {
    for_each = each.value.conditions
    content {
      display_name = conditions.value.name
      condition_threshold {
        filter             = conditions.value.filter
        denominator_filter = conditions.value.denominator
        comparison         = lookup(conditions.value, "comparison", "COMPARISON_GT")
        threshold_value    = conditions.value.limit
        duration           = "${conditions.value.for}s"
        # No traffic is no incident.
        evaluation_missing_data = conditions.value.for > 0 ? "EVALUATION_MISSING_DATA_INACTIVE" : null

        aggregations {
          alignment_period     = "${conditions.value.period}s"
          per_series_aligner   = conditions.value.aligner
          cross_series_reducer = conditions.value.reducer
        }

        dynamic "denominator_aggregations" {
          for_each = conditions.value.denominator == null ? [] : [1]
          content {
            alignment_period     = "${conditions.value.period}s"
            per_series_aligner   = conditions.value.aligner
            cross_series_reducer = conditions.value.reducer
          }
        }
      }
    }
  }

  documentation {
    subject   = "${var.name}: ${each.value.title}"
    content   = "What to do: ${var.runbook_url}#${replace(replace(lower(each.value.section), ":", ""), " ", "-")}"
    mime_type = "text/markdown"
  }

  alert_strategy {
    auto_close = "86400s"
  }
}
