# Metrics counted from the worker's own log lines. What alerts count is said in deploy/filters, one file for each, and a
# test feeds real log lines to them.

locals {
  log_metrics = {
    for name in fileset("${path.module}/../filters", "*.filter") :
    trimsuffix(name, ".filter") => trimspace(file("${path.module}/../filters/${name}"))
  }

  # Of all that runs in the project, this: service, worker pool, batch job. A line break is an AND.
  log_source = trimspace(<<-EOT
    (
      resource.labels.service_name="${var.name}"
      OR resource.labels.worker_pool_name="${var.name}"
      OR resource.labels.job_name="${var.name}-batch"
    )
  EOT
  )
}

resource "google_logging_metric" "count" {
  for_each = local.log_metrics

  name        = "${var.name}-${each.key}"
  description = "Log lines that match deploy/filters/${each.key}.filter."
  filter      = "${each.value}\n${local.log_source}"

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
    unit        = "1"
  }

  depends_on = [google_project_service.apis]
}

# One line is written for each delivery of a job, with what became of it.
locals {
  job_lines = "${local.log_metrics["finished-jobs"]}\n${local.log_source}"
}

resource "google_logging_metric" "jobs" {
  name        = "${var.name}-jobs"
  description = "Deliveries of jobs by outcome (complete, partial, failed, duplicate, conflict, retry), class of the error and mode."
  filter      = local.job_lines

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
    unit        = "1"

    dynamic "labels" {
      for_each = ["outcome", "class", "mode", "cached"]
      content {
        key = labels.value
      }
    }
  }

  label_extractors = {
    outcome = "EXTRACT(jsonPayload.outcome)"
    class   = "EXTRACT(jsonPayload.class)"
    mode    = "EXTRACT(jsonPayload.mode)"
    cached  = "EXTRACT(jsonPayload.cached)"
  }

  depends_on = [google_project_service.apis]
}

resource "google_logging_metric" "job_times" {
  for_each = {
    total           = "from arrival to the end"
    first_variation = "from arrival to the first stored variation"
    queue           = "from arrival until there was room"
  }

  name            = "${var.name}-job-${each.key}-ms"
  description     = "Time of a job ${each.value}, in milliseconds."
  filter          = "${local.job_lines}\njsonPayload.${each.key}_ms>=0"
  value_extractor = "EXTRACT(jsonPayload.${each.key}_ms)"

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "DISTRIBUTION"
    unit        = "ms"
  }

  bucket_options {
    # From 1 ms, by half more each time, to 40 minutes.
    exponential_buckets {
      scale              = 1
      growth_factor      = 1.5
      num_finite_buckets = 36
    }
  }

  depends_on = [google_project_service.apis]
}
