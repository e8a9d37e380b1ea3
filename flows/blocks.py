"""The Prefect block that holds addresses for notices; Prefect's server and workers load it by its entry point."""

from prefect.blocks.notifications import AppriseNotificationBlock


class Addresses(AppriseNotificationBlock):
    """Where notices go: addresses as Apprise writes them (`mailtos://`, `jsons://`, `slack://`), with spaces between.

    They may hold passwords; Prefect stores them encrypted.
    """

    _block_type_name = "Apprise addresses"
    _block_type_slug = "apprise-addresses"
