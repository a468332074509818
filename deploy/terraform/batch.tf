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
      # A job has no zonal redundancy to give up, and must say so.
      gpu_zonal_redundancy_disabled = local.gpu ? true : null

      dynamic "node_selector" {
        for_each = local.accelerators
        content {
          accelerator = node_selector.value
        }
      }

      dynamic "vpc_access" {
        for_each = local.networks
        content {
          egress = "PRIVATE_RANGES_ONLY"
          network_interfaces {
            network    = vpc_access.value.network
            subnetwork = vpc_access.value.subnetwork
          }
        }
      }

      containers {
        image = var.image
        args  = ["batch", var.batch.jobs]

        resources {
          limits = local.limits
        }

        dynamic "env" {
          for_each = local.settings
          content {
            name  = env.key
            value = env.value
          }
        }

        dynamic "env" {
          for_each = var.secrets
          content {
            name = env.key
            value_source {
              secret_key_ref {
                secret  = env.value
                version = "latest"
              }
            }
          }
        }

        dynamic "volume_mounts" {
          for_each = local.model_buckets
          content {
            name       = "models"
            mount_path = local.models_folder
          }
        }
      }

      dynamic "volumes" {
        for_each = local.model_buckets
        content {
          name = "models"
          gcs {
            bucket    = volumes.value
            read_only = true
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
    google_storage_bucket_iam_member.worker_reads_models,
    google_secret_manager_secret_iam_member.worker_reads_secrets,
    google_pubsub_topic_iam_member.worker_publishes,
  ]
}
