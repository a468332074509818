# Calls at set times: warming up, and how many instances stay warm.

resource "google_cloud_scheduler_job" "warm_up" {
  count = local.service && var.warm_up_schedule != null ? 1 : 0

  name             = "${var.name}-warm-up"
  description      = "One tiny job, end to end, so that an instance and its connections are there."
  region           = var.region
  schedule         = var.warm_up_schedule
  time_zone        = var.time_zone
  attempt_deadline = "60s"

  http_target {
    http_method = "POST"
    uri         = "${local.service_url}/warmup"
    oidc_token {
      service_account_email = google_service_account.scheduler[0].email
      audience              = local.service_url
    }
  }

  retry_config {
    retry_count          = 1
    min_backoff_duration = "10s"
  }

  depends_on = [google_project_service.apis, google_cloud_run_v2_service_iam_member.callers]
}

# The number of warm instances rises with the hours of business. It belongs to the service, not to a revision, so that
# changing it rolls out nothing.
resource "google_cloud_scheduler_job" "warm_instances" {
  for_each = local.service && var.business_hours != null ? {
    begin = { schedule = var.business_hours.begin, instances = var.business_hours.min_instances }
    end   = { schedule = var.business_hours.end, instances = var.min_instances }
  } : {}

  name             = "${var.name}-hours-${each.key}"
  description      = "Keeps ${each.value.instances} instances of ${var.name} warm from now on."
  region           = var.region
  schedule         = each.value.schedule
  time_zone        = var.time_zone
  attempt_deadline = "60s"

  http_target {
    http_method = "PATCH"
    uri         = "https://run.googleapis.com/v2/projects/${var.project}/locations/${var.region}/services/${google_cloud_run_v2_service.worker[0].name}?update_mask=scaling.minInstanceCount"
    headers     = { "Content-Type" = "application/json" }
    body        = base64encode(jsonencode({ scaling = { minInstanceCount = each.value.instances } }))
    oauth_token {
      service_account_email = google_service_account.scaler[0].email
      scope                 = "https://www.googleapis.com/auth/cloud-platform"
    }
  }

  # A missed end would cost money until the next morning.
  retry_config {
    retry_count          = 5
    min_backoff_duration = "30s"
    max_backoff_duration = "600s"
  }

  lifecycle {
    precondition {
      condition     = var.business_hours.min_instances <= local.max_instances && var.min_instances <= local.max_instances
      error_message = "No more instances can be kept warm than max_instances (with a GPU also gpu.max_instances) allows."
    }
  }

  depends_on = [
    google_cloud_run_v2_service_iam_member.scaler,
    google_service_account_iam_member.scaler_acts_as_worker,
  ]
}
