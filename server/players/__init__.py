"""What players read before they fetch ranges: HLS playlists and DASH manifests, out of the seek tables."""
