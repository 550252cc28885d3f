"""Files of SAEs by layout, one file each: saekit's own and those of other libraries."""
