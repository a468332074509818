# Optional: the palette bucket behind Cloud CDN. Objects are then public to whoever knows their name; names are not listed.

resource "google_storage_bucket_iam_member" "anyone_reads_variations" {
  count = var.cdn_domain == null ? 0 : 1

  bucket = local.palette_bucket
  # Reads objects, lists none.
  role   = "roles/storage.legacyObjectReader"
  member = "allUsers"
}

resource "google_compute_backend_bucket" "variations" {
  count = var.cdn_domain == null ? 0 : 1

  name        = "${var.name}-variations"
  bucket_name = local.palette_bucket
  enable_cdn  = true

  cdn_policy {
    # Names of variations come from their content and carry a year of Cache-Control; manifests say for themselves.
    cache_mode       = "USE_ORIGIN_HEADERS"
    negative_caching = true
    # A manifest that is not there yet will be.
    negative_caching_policy {
      code = 404
      ttl  = 5
    }
  }

  depends_on = [google_project_service.apis]
}

resource "google_compute_global_address" "cdn" {
  count = var.cdn_domain == null ? 0 : 1

  name = "${var.name}-cdn"

  depends_on = [google_project_service.apis]
}

resource "google_compute_managed_ssl_certificate" "cdn" {
  count = var.cdn_domain == null ? 0 : 1

  # A certificate's domain cannot change, and one in use cannot be deleted: so the domain is part of the name.
  name = "${var.name}-${substr(sha256(var.cdn_domain), 0, 8)}"

  managed {
    domains = [var.cdn_domain]
  }

  lifecycle {
    create_before_destroy = true
  }

  depends_on = [google_project_service.apis]
}

resource "google_compute_url_map" "cdn" {
  count = var.cdn_domain == null ? 0 : 1

  name            = "${var.name}-cdn"
  default_service = google_compute_backend_bucket.variations[0].id
}

resource "google_compute_target_https_proxy" "cdn" {
  count = var.cdn_domain == null ? 0 : 1

  name             = "${var.name}-cdn"
  url_map          = google_compute_url_map.cdn[0].id
  ssl_certificates = [google_compute_managed_ssl_certificate.cdn[0].id]
}

resource "google_compute_global_forwarding_rule" "cdn" {
  count = var.cdn_domain == null ? 0 : 1

  name                  = "${var.name}-cdn"
  load_balancing_scheme = "EXTERNAL_MANAGED"
  ip_address            = google_compute_global_address.cdn[0].address
  port_range            = "443"
  target                = google_compute_target_https_proxy.cdn[0].id
  labels                = local.labels
}
