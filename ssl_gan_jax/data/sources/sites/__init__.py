"""Several data sets as the sites of one."""
