"""What people are told: series that leave what they are used to, and everything that is wrong."""
