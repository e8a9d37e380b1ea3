"""What every step is handed: context, identity, champion, folders, attempts."""
