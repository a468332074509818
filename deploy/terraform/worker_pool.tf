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
    service_account = google_service_account.worker.email
    labels          = local.labels

    containers {
      image = var.image
      args  = ["pull"]

      resources {
        limits = {
          cpu    = tostring(var.cpu)
          memory = "${var.memory_mib}Mi"
        }
      }

      dynamic "env" {
        for_each = merge({ CONCEPT_SUBSCRIPTION = google_pubsub_subscription.pull[0].id }, local.settings)
        content {
          name  = env.key
          value = env.value
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
    google_pubsub_topic_iam_member.worker_publishes,
    google_pubsub_subscription_iam_member.worker_pulls,
  ]
}
