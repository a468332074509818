# Buckets of bases and of variations, how long things are kept in them, and the messages that tell of new bases.

resource "google_storage_bucket" "bases" {
  count = var.base_bucket == null ? 1 : 0

  name                        = "${var.project}-${var.name}-bases"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  labels                      = local.labels

  dynamic "lifecycle_rule" {
    for_each = var.base_days > 0 ? [var.base_days] : []
    content {
      action {
        type = "Delete"
      }
      condition {
        age = lifecycle_rule.value
      }
    }
  }

  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }
    condition {
      age = 1
    }
  }

  depends_on = [google_project_service.apis]
}

resource "google_storage_bucket" "variations" {
  count = var.palette_bucket == null ? 1 : 0

  name                        = "${var.project}-${var.name}-variations"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = var.cdn_domain == null ? "enforced" : "inherited"
  labels                      = local.labels

  dynamic "lifecycle_rule" {
    for_each = var.variation_days > 0 ? [var.variation_days] : []
    content {
      action {
        type = "Delete"
      }
      condition {
        age = lifecycle_rule.value
      }
    }
  }

  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }
    condition {
      age = 1
    }
  }

  # Leases are replaced all the time; keeping each replaced one for a week would cost more than it saves.
  soft_delete_policy {
    retention_duration_seconds = 0
  }

  depends_on = [google_project_service.apis]
}

# ---- a new picture starts the default job ----

data "google_storage_project_service_account" "this" {
  count = var.default_job == null ? 0 : 1

  project = var.project
}

resource "google_pubsub_topic_iam_member" "storage_publishes" {
  count = var.default_job == null ? 0 : 1

  topic  = google_pubsub_topic.jobs.name
  role   = "roles/pubsub.publisher"
  member = data.google_storage_project_service_account.this[0].member
}

resource "google_storage_notification" "new_picture" {
  count = var.default_job == null ? 0 : 1

  bucket         = local.base_bucket
  topic          = google_pubsub_topic.jobs.id
  payload_format = "JSON_API_V1"
  event_types    = ["OBJECT_FINALIZE"]

  lifecycle {
    precondition {
      condition     = local.base_bucket != local.palette_bucket
      error_message = "With default_job, bases and variations need buckets of their own."
    }
  }

  depends_on = [google_pubsub_topic_iam_member.storage_publishes]
}
