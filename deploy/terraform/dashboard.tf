# One page on which the worker's state can be seen.

locals {
  run = "metric.type=\"run.googleapis.com/%s\" AND ${local.resource_filter}"

  job_times = {
    for key, metric in google_logging_metric.job_times :
    key => "metric.type=\"logging.googleapis.com/user/${metric.name}\" AND resource.type=\"${local.resource_type}\""
  }

  percentiles = {
    p50 = "REDUCE_PERCENTILE_50"
    p95 = "REDUCE_PERCENTILE_95"
    p99 = "REDUCE_PERCENTILE_99"
  }

  charts_service = [
    {
      title = "Requests by answer", unit = "1/s", stacked = true
      lines = [{ legend = "$${metric.labels.response_code}", filter = format(local.run, "request_count"), aligner = "ALIGN_RATE", reducer = "REDUCE_SUM", groups = ["metric.label.response_code"] }]
    },
    {
      title = "Request latency", unit = "ms", stacked = false
      lines = [for legend, reducer in local.percentiles : { legend = legend, filter = format(local.run, "request_latencies"), aligner = "ALIGN_DELTA", reducer = reducer, groups = [] }]
    },
    {
      title = "Requests under way in an instance", unit = "1", stacked = false
      lines = [for legend, reducer in local.percentiles : { legend = legend, filter = format(local.run, "container/max_request_concurrencies"), aligner = "ALIGN_DELTA", reducer = reducer, groups = [] }]
    },
  ]

  charts_always = [
    {
      title = "Jobs by outcome", unit = "1", stacked = true
      lines = [{ legend = "$${metric.labels.outcome}", filter = local.jobs, aligner = "ALIGN_DELTA", reducer = "REDUCE_SUM", groups = ["metric.label.outcome"] }]
    },
    {
      title = "Time of a job", unit = "ms", stacked = false
      lines = [for legend, reducer in local.percentiles : { legend = legend, filter = local.job_times["total"], aligner = "ALIGN_DELTA", reducer = reducer, groups = [] }]
    },
    {
      title = "First variation, and waiting for room (p95)", unit = "ms", stacked = false
      lines = [for key in ["first_variation", "queue"] : { legend = replace(key, "_", " "), filter = local.job_times[key], aligner = "ALIGN_DELTA", reducer = "REDUCE_PERCENTILE_95", groups = [] }]
    },
    {
      title = "Errors by class", unit = "1", stacked = true
      lines = [{ legend = "$${metric.labels.class}", filter = "${local.jobs} AND metric.labels.class!=\"\"", aligner = "ALIGN_DELTA", reducer = "REDUCE_SUM", groups = ["metric.label.class"] }]
    },
    {
      title = "Answered from what was stored before", unit = "1", stacked = true
      lines = [{ legend = "$${metric.labels.cached}", filter = local.jobs, aligner = "ALIGN_DELTA", reducer = "REDUCE_SUM", groups = ["metric.label.cached"] }]
    },
    {
      title = "Failed, partial, in conflict, given up", unit = "1", stacked = false
      lines = [for key in ["failed-jobs", "partial-jobs", "conflicts", "retries-exhausted"] : { legend = replace(key, "-", " "), filter = local.counted[key], aligner = "ALIGN_DELTA", reducer = "REDUCE_SUM", groups = [] }]
    },
    {
      title = "Slow, retried, short of memory, callers refused, panics", unit = "1", stacked = false
      lines = [for key in ["slow-jobs", "retried-jobs", "memory", "auth-refusals", "panics"] : { legend = replace(key, "-", " "), filter = local.counted[key], aligner = "ALIGN_DELTA", reducer = "REDUCE_SUM", groups = [] }]
    },
    {
      title = "Oldest waiting message", unit = "s", stacked = false
      lines = [{ legend = "age", filter = "metric.type=\"pubsub.googleapis.com/subscription/oldest_unacked_message_age\" AND ${local.subscription_filter}", aligner = "ALIGN_MAX", reducer = "REDUCE_MAX", groups = [] }]
    },
    {
      title = "Waiting messages", unit = "1", stacked = false
      lines = [{ legend = "not acknowledged", filter = "metric.type=\"pubsub.googleapis.com/subscription/num_undelivered_messages\" AND ${local.subscription_filter}", aligner = "ALIGN_MEAN", reducer = "REDUCE_SUM", groups = [] }]
    },
    {
      title = "Memory, share of the limit", unit = "1", stacked = false
      lines = [for legend, reducer in local.percentiles : { legend = legend, filter = format(local.run, "container/memory/utilizations"), aligner = "ALIGN_DELTA", reducer = reducer, groups = [] }]
    },
    {
      title = "Processors, share of the limit", unit = "1", stacked = false
      lines = [for legend, reducer in local.percentiles : { legend = legend, filter = format(local.run, "container/cpu/utilizations"), aligner = "ALIGN_DELTA", reducer = reducer, groups = [] }]
    },
    {
      title = "Instances", unit = "1", stacked = true
      lines = [{ legend = "$${metric.labels.state}", filter = format(local.run, "container/instance_count"), aligner = "ALIGN_MAX", reducer = "REDUCE_SUM", groups = ["metric.label.state"] }]
    },
    {
      title = "Start of an instance", unit = "ms", stacked = false
      lines = [for legend, reducer in local.percentiles : { legend = legend, filter = format(local.run, "container/startup_latencies"), aligner = "ALIGN_DELTA", reducer = reducer, groups = [] }]
    },
    {
      title = "Cold starts", unit = "1", stacked = false
      lines = [{ legend = "cold starts", filter = local.counted["cold-starts"], aligner = "ALIGN_DELTA", reducer = "REDUCE_SUM", groups = [] }]
    },
    {
      title = "Billed instance time", unit = "s", stacked = false
      lines = [{ legend = "seconds", filter = format(local.run, "container/billable_instance_time"), aligner = "ALIGN_RATE", reducer = "REDUCE_SUM", groups = [] }]
    },
  ]

  charts = concat(local.service ? local.charts_service : [], local.charts_always)

  dashboard = {
    displayName = var.name
    mosaicLayout = {
      columns = 48
      tiles = concat(
        [for index, chart in local.charts : {
          xPos   = index % 3 * 16
          yPos   = floor(index / 3) * 12
          width  = 16
          height = 12
          widget = {
            title = chart.title
            xyChart = {
              dataSets = [for line in chart.lines : {
                plotType       = chart.stacked ? "STACKED_AREA" : "LINE"
                targetAxis     = "Y1"
                legendTemplate = line.legend
                timeSeriesQuery = {
                  unitOverride = chart.unit
                  timeSeriesFilter = {
                    filter = line.filter
                    aggregation = {
                      alignmentPeriod    = "60s"
                      perSeriesAligner   = line.aligner
                      crossSeriesReducer = line.reducer
                      groupByFields      = line.groups
                    }
                  }
                }
              }]
            }
          }
        }],
        [{
          xPos   = 0
          yPos   = ceil(length(local.charts) / 3) * 12
          width  = 48
          height = 16
          widget = {
            title     = "Warnings and errors"
            logsPanel = { filter = "severity>=WARNING\n${local.log_source}", resourceNames = ["projects/${var.project}"] }
          }
        }],
      )
    }
  }
}

resource "google_monitoring_dashboard" "worker" {
  dashboard_json = jsonencode(local.dashboard)

  depends_on = [google_project_service.apis]
}
