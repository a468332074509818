# The service: it gets pushes and direct requests.

resource "google_cloud_run_v2_service" "worker" {
  count = local.service ? 1 : 0

  name                = var.name
  location            = var.region
  ingress             = var.ingress
  custom_audiences    = [local.service_url]
  deletion_protection = var.deletion_protection
  labels              = local.labels

  # The schedule changes this number, never the template's: no new revision.
  dynamic "scaling" {
    for_each = var.business_hours == null ? [] : [var.min_instances]
    content {
      min_instance_count = scaling.value
    }
  }

  template {
    service_account                  = google_service_account.worker.email
    execution_environment            = "EXECUTION_ENVIRONMENT_GEN2"
    max_instance_request_concurrency = var.concurrency
    timeout                          = "${var.request_timeout_seconds}s"
    gpu_zonal_redundancy_disabled    = local.zonal_redundancy_disabled
    labels                           = local.labels

    scaling {
      min_instance_count = var.business_hours == null ? var.min_instances : 0
      max_instance_count = local.max_instances
    }

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
      args  = ["serve"]

      ports {
        container_port = 8080
      }

      resources {
        # Processors only while a request is under way; the worker does nothing in between. With a GPU Cloud Run gives them always.
        cpu_idle          = !local.gpu
        startup_cpu_boost = true
        limits            = local.limits
      }

      dynamic "env" {
        for_each = merge(local.settings_push, local.settings)
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

      # A model is loaded before /ready answers. Cloud Run waits for 240 s at most.
      startup_probe {
        period_seconds    = 1
        timeout_seconds   = 1
        failure_threshold = local.model ? 240 : 30
        http_get {
          path = "/ready"
          port = 8080
        }
      }

      liveness_probe {
        period_seconds    = 10
        timeout_seconds   = 1
        failure_threshold = 6
        http_get {
          path = "/health"
          port = 8080
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
    # Images are rolled out by cloudbuild.yaml, warm instances by the schedule.
    ignore_changes = [client, client_version, scaling, template[0].containers[0].image]

    precondition {
      condition     = local.memory_mib <= 4096 * max(local.cpu, 1)
      error_message = "Cloud Run gives at most 4 GiB of memory for each processor: raise cpu or lower memory_mib."
    }
    precondition {
      condition     = local.model || !local.gpu
      error_message = "A GPU is for a model: set model."
    }
  }

  # Rights first, so that the first job finds them.
  depends_on = [
    google_storage_bucket_iam_member.worker_reads_bases,
    google_storage_bucket_iam_member.worker_writes_variations,
    google_storage_bucket_iam_member.worker_reads_models,
    google_secret_manager_secret_iam_member.worker_reads_secrets,
    google_pubsub_topic_iam_member.worker_publishes,
  ]
}
