# The variant for a steady load or for jobs beyond the ten minutes of a push: always on, pulls by itself.
resource "google_cloud_run_v2_worker_pool" "worker" {
  count = local.worker_pool ? 1 : 0

  name                = var.name
  location            = var.region
  deletion_protection = var.deletion_protection
  labels              = local.labels

  scaling {
    manual_instance_count = var.pool_instances
  }

  template {
    service_account               = google_service_account.worker.email
    gpu_zonal_redundancy_disabled = local.zonal_redundancy_disabled
    labels                        = local.labels

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
      args  = ["pull"]

      resources {
        limits = local.limits
      }

      dynamic "env" {
        for_each = merge({ CONCEPT_SUBSCRIPTION = google_pubsub_subscription.pull[0].id }, local.settings)
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

  lifecycle {
    # Images are rolled out by cloudbuild.yaml.
    ignore_changes = [client, client_version, template[0].containers[0].image]
  }

  depends_on = [
    google_storage_bucket_iam_member.worker_reads_bases,
    google_storage_bucket_iam_member.worker_writes_variations,
    google_storage_bucket_iam_member.worker_reads_models,
    google_secret_manager_secret_iam_member.worker_reads_secrets,
    google_pubsub_topic_iam_member.worker_publishes,
    google_pubsub_subscription_iam_member.worker_pulls,
  ]
}
