# Many jobs at once, from a file with one job a line; tasks share the lines by their index. Start it with
# `gcloud run jobs execute NAME-batch`.
resource "google_cloud_run_v2_job" "batch" {
  count = var.batch == null ? 0 : 1

  name                = "${var.name}-batch"
  location            = var.region
  deletion_protection = var.deletion_protection
  labels              = local.labels

  template {
    task_count  = var.batch.tasks
    parallelism = var.batch.parallelism
    labels      = local.labels

    template {
      service_account       = google_service_account.worker.email
      execution_environment = "EXECUTION_ENVIRONMENT_GEN2"
      timeout               = "${var.batch.timeout_seconds}s"
      max_retries           = var.batch.max_retries

      containers {
        image = var.image
        args  = ["batch", var.batch.jobs]

        resources {
          limits = {
            cpu    = tostring(var.cpu)
            memory = "${var.memory_mib}Mi"
          }
        }

        dynamic "env" {
          for_each = local.settings
          content {
            name  = env.key
            value = env.value
          }
        }
      }
    }
  }

  lifecycle {
    ignore_changes = [client, client_version, template[0].template[0].containers[0].image]
  }

  depends_on = [
    google_storage_bucket_iam_member.worker_reads_bases,
    google_storage_bucket_iam_member.worker_writes_variations,
    google_pubsub_topic_iam_member.worker_publishes,
  ]
}
