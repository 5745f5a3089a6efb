"""The loss as a bound: which terms it has, with which factors, and how a calibrated decoder takes the place of one."""
