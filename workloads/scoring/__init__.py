"""PmIoU and mIoU."""
