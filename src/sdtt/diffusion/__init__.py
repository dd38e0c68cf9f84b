"""The mathematics: functions of tensors. torch only, no files, no devices, no Hugging Face."""
